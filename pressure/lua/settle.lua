#!lua flags=allow-oom
-- Do for an item that BLMOVE brought into a taken list what `take` does for those it moves itself.
-- A consumer that was declared dead meanwhile gets nothing: its items go back.
-- KEYS  base bound generation not_full room consumer leases taken consumed_messages consumed_bytes prefetched waiters consumer_free closed paused
-- ARGV  generation consumer client bytes (of the item; "": the block ended without one; -1: look at the newest that is held)
-- reply {OK, left in the list} | {LOST} | {EMPTY} (it went back: the queue is paused) | {IN_USE} (it went back, to a 0.15 client that waits for the last items)
local base, bound, generation, not_full, room, consumer, leases, taken, consumed_messages,
  consumed_bytes, prefetched, waiters, consumer_free, closed, paused = unpack(KEYS)
local expected, id, client, bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local is_bundle = false
if bytes == -1 then
  local item = call('LINDEX', taken, 0)
  bytes = item and #item
  is_bundle = item and behind(item) > 0
end
call('HDEL', waiters, id)
local current, pausing = unpack(call('MGET', generation, paused))
if current ~= expected or not call('ZSCORE', leases, id) then
  if call('EXISTS', bound) == 1 then
    while call('LMOVE', taken, base, 'LEFT', 'RIGHT') do end
    live_like(bound, base)
    restore_room(base, bound, prefetched, not_full, room)
  else
    call('DEL', taken)
  end
  return {LOST}
end
if bytes and pausing then
  call('LMOVE', taken, base, 'LEFT', 'RIGHT')
  live_like(bound, base)
  restore_room(base, bound, prefetched, not_full, room)
  return {EMPTY}
end
if bytes and call('LLEN', consumer_free) == 0 and call('EXISTS', closed) == 1 then
  -- It has seen that something is left, and so it waits for that alone.
  call('LMOVE', taken, base, 'LEFT', 'RIGHT')
  live_like(bound, base)
  return {IN_USE}
end
if is_bundle then
  -- Not all of it is handed out at once, so it counts as fetched ahead.
  call('HINCRBY', prefetched, '*', 1)
  call('HINCRBY', prefetched, id, 1)
  live_like(bound, prefetched)
end
if bytes then
  if call('GET', consumer) ~= client then
    call('SET', consumer, client, 'KEEPTTL')
    live_like(bound, consumer)
  end
  local consumed = call('INCRBY', consumed_messages, 1)
  call('INCRBY', consumed_bytes, bytes)
  if consumed == 1 then live_like(bound, consumed_messages, consumed_bytes) end
  if call('GET', bound) ~= '0' then restore_room(base, bound, prefetched, not_full, room) end
end
return {OK, call('LLEN', base)}
