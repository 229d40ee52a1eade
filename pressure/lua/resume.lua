#!lua flags=allow-oom
-- Hand out items again, and wake whoever waits for that.
-- KEYS  bound paused resumed
-- ARGV
-- reply {OK, 1 | 0} (whether it was paused) | {ABSENT}
local bound, paused, resumed = unpack(KEYS)
if call('EXISTS', bound) == 0 then return {ABSENT} end
local was = call('DEL', paused)
if was == 1 then wake_paused(resumed) end
return {OK, was}
