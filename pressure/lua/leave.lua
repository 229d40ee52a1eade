#!lua flags=allow-oom
-- A consumer and a producer sign off: what is still held goes back to the head of the queue, and
-- what was fetched stays unfinished for whoever calls task_done().
-- KEYS  base bound not_full room leases taken fetched prefetched waiters joiners joined blobs producers consumed_messages consumed_bytes
-- ARGV  consumer producer number raw kinds tag... (see `acknowledge`)
-- reply {OK, given_back}
local base, bound, not_full, room, leases, taken, fetched, prefetched, waiters, joiners, joined,
  blobs, producers, consumed_messages, consumed_bytes = unpack(KEYS)
local id, producer_id, number, raw, kinds =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5]

call('HDEL', producers, producer_id)
if not call('ZSCORE', leases, id) then return {OK, 0} end
acknowledge(taken, kinds, slice(6, #ARGV), id, number, raw, producers, fetched, prefetched, blobs,
  joiners, joined, base)
call('HDEL', producers, id)
hand_out(prefetched, id, tonumber(call('HGET', prefetched, id) or 0))
local values, bytes = {}, 0
local held = call('LRANGE', taken, 0, -1)
for i = #held, 1, -1 do
  values[#values + 1] = held[i]
  bytes = bytes + #held[i]
end
call('DEL', taken)
local unfinished = tonumber(call('HGET', fetched, id) or 0)
local exists = call('EXISTS', bound) == 1
if exists and unfinished ~= 0 and call('HINCRBY', fetched, '*', unfinished) == 0 then
  call('HDEL', fetched, '*')
end
call('HDEL', fetched, id)
call('HDEL', waiters, id)
call('ZREM', leases, id)
if exists then
  if #values > 0 then
    push(base, values, true)
    call('DECRBY', consumed_messages, #values)
    call('DECRBY', consumed_bytes, bytes)
  end
  live_like(bound, base, fetched, consumed_messages, consumed_bytes)
  restore_room(base, bound, prefetched, not_full, room)
end
return {OK, #values}
