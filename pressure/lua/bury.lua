#!lua flags=allow-oom
-- Move items that nobody can use from the consumer's taken list to the dead letters. `ahead` says
-- that they were fetched ahead.
-- KEYS  base bound not_full room leases taken prefetched dead_letters joiners joined
-- ARGV  consumer raw ahead ("1" | "") reason (JSON) tag...
-- reply {OK, buried} | {LOST}
local base, bound, not_full, room, leases, taken, prefetched, dead_letters, joiners, joined =
  unpack(KEYS)
local id, raw, ahead, reason = ARGV[1], ARGV[2] == '1', ARGV[3] == '1', ARGV[4]

if not call('ZSCORE', leases, id) or call('EXISTS', bound) == 0 then return {LOST} end
local buried, more = 0, 0
for _, value in ipairs(remove(taken, slice(5, #ARGV), raw)) do
  if value then
    bury(dead_letters, value, reason)
    buried = buried + 1
    if not raw then more = more + behind(value) end
  end
end
count_behind(prefetched, -more)
live_like(bound, dead_letters)
if (ahead or more > 0) and buried > 0 then
  if ahead then hand_out(prefetched, id, buried) end
  restore_room(base, bound, prefetched, not_full, room)
end
if call('LLEN', base) == 0 then hint_joiners(joiners, joined) end
return {OK, buried}
