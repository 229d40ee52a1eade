#!lua flags=allow-oom
-- First half of deleting: from now on the queue does not exist, and whoever is blocked wakes. The
-- keys stay until the 0.15 clients that hold a role have returned it (see `purge`).
-- KEYS  bound generation closed not_full room producer_free consumer_free waiters leases departed joined
-- ARGV  generation again ("1": a first try may have been carried out)
-- reply {OK, producer_free, consumer_free, waiters, waiter..., consumer...} | {ABSENT} | {AGAIN}
local bound, generation, closed, not_full, room, producer_free, consumer_free, waiters, leases,
  departed, joined = unpack(KEYS)
if call('EXISTS', bound) == 1 and call('GET', generation) ~= ARGV[1] then return {AGAIN} end
if call('DEL', bound) == 0 and ARGV[2] ~= '1' then return {ABSENT} end
call('DEL', generation)
signal(not_full)
wake_all(room)
wake_all(joined)
call('LPUSH', closed, '1', '1')
local blocked = call('HVALS', waiters)
local reply = {OK, call('LLEN', producer_free), call('LLEN', consumer_free), #blocked}
for _, waiter in ipairs(blocked) do reply[#reply + 1] = waiter end
for _, set in ipairs({leases, departed}) do
  for _, consumer in ipairs(call('ZRANGE', set, 0, -1)) do reply[#reply + 1] = consumer end
end
return reply
