#!lua flags=allow-oom
-- Put items of a bundle that a consumer holds back at the head of the queue, each by itself; those
-- that are not named are done. Doing it again changes nothing.
-- KEYS  base bound not_full room leases taken prefetched produced_messages produced_bytes
-- ARGV  consumer tag ahead ("1" | "": it was fetched ahead) value... (oldest first)
-- reply {OK, bundles (1; 0: it is not there)} | {LOST}
local base, bound, not_full, room, leases, taken, prefetched, produced_messages, produced_bytes =
  unpack(KEYS)
local id, tag, ahead = ARGV[1], ARGV[2], ARGV[3] == '1'
local FIRST = 4

if not call('ZSCORE', leases, id) or call('EXISTS', bound) == 0 then return {LOST} end
local bundle = remove(taken, {tag}, false)[1]
if not bundle then return {OK, 0} end
count_behind(prefetched, -behind(bundle))
if ahead then hand_out(prefetched, id, 1) end
-- They are as old as the bundle.
local stamped = string.sub(bundle, STAMP, STAMP + 7)
local values, bytes = {}, 0
for i = FIRST, #ARGV do
  values[#values + 1] = string.sub(ARGV[i], 1, STAMP - 1) .. stamped .. string.sub(ARGV[i], STAMP + 8)
  bytes = bytes + #ARGV[i]
end
if #values > 0 then
  push(base, values, true)
  call('INCRBY', produced_messages, #values)
  call('INCRBY', produced_bytes, bytes)
  live_like(bound, base, produced_messages, produced_bytes)
end
restore_room(base, bound, prefetched, not_full, room)
return {OK, 1}
