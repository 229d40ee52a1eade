#!lua flags=allow-oom
-- A consumer whose connection broke takes a new id along with all it held. What a late command
-- still moves to the old id is found there by the reaper.
-- KEYS  base leases departed taken taken_new fetched prefetched waiters departures
-- ARGV  consumer new_consumer lease_ms
-- reply {OK, item...} (all that it holds, oldest first) | {LOST}
local base, leases, departed, taken, taken_new, fetched, prefetched, waiters, departures =
  unpack(KEYS)
local old, new, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])

local now = now_ms()
if not call('ZSCORE', leases, new) then
  local known = call('ZREM', leases, old) == 1
  call('ZADD', departed, now, old)
  call('HSETNX', departures, old, now)
  call('HDEL', waiters, old)
  if not known then return {LOST} end
  call('ZADD', leases, now + lease_ms, new)
  while call('LMOVE', taken, taken_new, 'RIGHT', 'LEFT') do end
  for _, hash in ipairs({fetched, prefetched}) do
    local count = call('HGET', hash, old)
    if count then
      call('HSET', hash, new, count)
      call('HDEL', hash, old)
    end
  end
end
local items = call('LRANGE', taken_new, 0, -1)
local reply = {OK}
for i = #items, 1, -1 do reply[#reply + 1] = items[i] end
return reply
