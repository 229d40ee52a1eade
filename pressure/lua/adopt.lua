#!lua flags=allow-oom
-- A consumer whose connection broke takes a new id along with all it held. What a late command
-- still moves to the old id is found there by the reaper.
-- KEYS  base leases departed taken taken_new fetched prefetched waiters departures bound not_full room producers
-- ARGV  consumer new_consumer lease_ms
-- reply {OK, number, ahead, item...} | {LOST}
--   number: of its last acknowledgement; ahead: how many it has fetched ahead; item...: all that it
--   holds, oldest first
local base, leases, departed, taken, taken_new, fetched, prefetched, waiters, departures, bound,
  not_full, room, producers = unpack(KEYS)
local old, new, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Nothing is held of a deleted queue, and nothing must be left behind after it.
if call('EXISTS', bound) == 0 then return {LOST} end
local now = now_ms()
if not call('ZSCORE', leases, new) then
  local known = call('ZREM', leases, old) == 1
  call('ZADD', departed, now, old)
  call('HSETNX', departures, old, now)
  local lives = call('PTTL', bound)
  if lives > 0 then expire(lives, departed, departures) end
  call('HDEL', waiters, old)
  if not known then return {LOST} end
  call('ZADD', leases, now + lease_ms, new)
  if lives > 0 then expire(lives, leases) end
  while call('LMOVE', taken, taken_new, 'RIGHT', 'LEFT') do end
  if lives > 0 then expire(lives, taken_new) end
  for _, hash in ipairs({fetched, prefetched, producers}) do
    local count = call('HGET', hash, old)
    if count then
      call('HSET', hash, new, count)
      call('HDEL', hash, old)
    end
  end
end
-- A BLMOVE whose reply was lost made room, and nobody has said so yet.
restore_room(base, bound, prefetched, not_full, room)
local items = call('LRANGE', taken_new, 0, -1)
local number = string.match(call('HGET', producers, new) or '', '^%d+')
local reply = {OK, tonumber(number or 0), tonumber(call('HGET', prefetched, new) or 0)}
for i = #items, 1, -1 do reply[#reply + 1] = items[i] end
return reply
