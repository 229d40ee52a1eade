#!lua flags=allow-oom
-- Put items of a taken list back at the head of the queue, in their order. With `charge` it counts
-- as a failed delivery. `ahead` says that they were fetched ahead. Doing it again changes nothing.
-- KEYS  base bound not_full room leases taken prefetched consumed_messages consumed_bytes deliveries
-- ARGV  consumer raw charge ("1" | "") ahead ("1" | "") tag... (oldest first)
-- reply {OK, given_back} | {LOST}
local base, bound, not_full, room, leases, taken, prefetched, consumed_messages, consumed_bytes,
  deliveries = unpack(KEYS)
local id, raw, charge, ahead = ARGV[1], ARGV[2] == '1', ARGV[3] == '1', ARGV[4] == '1'

if not call('ZSCORE', leases, id) then return {LOST} end
local values, bytes = {}, 0
local tags = slice(5, #ARGV)
for i, value in ipairs(remove(taken, tags, raw)) do
  if value then
    bytes = bytes + #value
    if charge and raw and call('EXISTS', bound) == 1 then call('HINCRBY', deliveries, tags[i], 1) end
    values[#values + 1] = (charge and not raw) and charged(value) or value
  end
end
if ahead then hand_out(prefetched, id, #values) end
if call('EXISTS', bound) == 1 then
  if #values > 0 then
    push(base, values, true)
    call('DECRBY', consumed_messages, #values)
    call('DECRBY', consumed_bytes, bytes)
    live_like(bound, base, deliveries, consumed_messages, consumed_bytes)
  end
  restore_room(base, bound, prefetched, not_full, room)
end
return {OK, #values}
