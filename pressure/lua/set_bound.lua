#!lua flags=allow-oom
-- Change the bound of a living queue. What exceeds a smaller one stays, and drains.
-- KEYS  base bound not_full room prefetched
-- ARGV  bound
-- reply {OK} | {ABSENT}
local base, bound, not_full, room, prefetched = unpack(KEYS)
if call('EXISTS', bound) == 0 then return {ABSENT} end
call('SET', bound, ARGV[1], 'KEEPTTL')
call('DEL', room)
restore_room(base, bound, prefetched, not_full, room)
-- Where there is no bound nobody passes the wake-up on.
if ARGV[1] == '0' then
  wake_all(room)
  live_like(bound, room)
end
return {OK}
