#!lua flags=allow-oom
-- Free the producer or consumer role that a 0.15 client holds which is known to be dead.
-- KEYS  base bound holder free not_full room prefetched
-- ARGV
-- reply {OK, holder} | {EMPTY} (nobody held it) | {ABSENT}
local base, bound, holder, free, not_full, room, prefetched = unpack(KEYS)
if call('EXISTS', bound) == 0 then return {ABSENT} end
if call('LLEN', free) > 0 then return {EMPTY} end
signal(free)
restore_room(base, bound, prefetched, not_full, room)
return {OK, call('GET', holder) or ''}
