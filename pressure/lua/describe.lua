#!lua flags=allow-oom
-- What a handle must know of a queue before it uses it. A queue made by a 0.15 client gets its
-- generation here, and what an earlier life of the name left behind counts no more.
-- KEYS  bound generation closed leases departed departures prefetched fetched producers waiters paused
-- ARGV  generation (to set if the queue has none)
-- reply {OK, bound (-1: it is no number), generation, closed} | {ABSENT}
local bound, generation, closed, leases, departed, departures, prefetched, fetched, producers,
  waiters, paused = unpack(KEYS)
local limit = call('GET', bound)
if not limit then
  call('DEL', generation)
  return {ABSENT}
end
if call('SETNX', generation, ARGV[1]) == 1 then
  for _, id in ipairs(call('ZRANGE', leases, 0, -1)) do call('ZADD', departed, 0, id) end
  -- The reaper drops what these hold.
  for _, id in ipairs(call('ZRANGE', departed, 0, -1)) do call('HSET', departures, id, 'old') end
  call('DEL', leases, prefetched, fetched, producers, waiters, paused)
end
return {OK, whole(limit, -1), call('GET', generation), call('EXISTS', closed)}
