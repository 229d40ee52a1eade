#!lua flags=allow-oom
-- Hand out nothing until `resume`. The caller unblocks the waiters named.
-- KEYS  bound paused resumed waiters
-- ARGV
-- reply {OK, waiter...} | {ABSENT}
local bound, paused, resumed, waiters = unpack(KEYS)
local lives = call('PTTL', bound)
if lives == -2 then return {ABSENT} end
call('SET', paused, now_ms(), 'NX')
if lives > 0 then expire(lives, paused) end
call('DEL', resumed)
local reply = {OK}
for _, waiter in ipairs(call('HVALS', waiters)) do reply[#reply + 1] = waiter end
return reply
