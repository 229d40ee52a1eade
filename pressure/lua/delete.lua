#!lua flags=allow-oom
-- First half of deleting: from now on the queue does not exist, and whoever is blocked wakes. The
-- keys stay until the 0.15 clients that hold a role have returned it (see `purge`); if the caller
-- dies before that, they expire.
-- KEYS  (every fixed key, base first) taken...
-- ARGV  generation again ("1": a first try may have been carried out)
-- reply {OK, producer_free, consumer_free, waiters, waiter..., consumer...} | {ABSENT} | {AGAIN}
local PURGED_WITHIN_MS = 60000
local bound, producer_free, consumer_free, not_full, closed, generation, room =
  KEYS[2], KEYS[5], KEYS[6], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local leases, departed, waiters, joined, paused, resumed =
  KEYS[16], KEYS[17], KEYS[22], KEYS[24], KEYS[30], KEYS[31]
if call('EXISTS', bound) == 1 and call('GET', generation) ~= ARGV[1] then return {AGAIN} end
if call('DEL', bound) == 0 and ARGV[2] ~= '1' then return {ABSENT} end
call('DEL', generation)
signal(not_full)
wake_all(room)
wake_all(joined)
if call('DEL', paused) == 1 then wake_paused(resumed) end
call('LPUSH', closed, '1', '1')
for _, key in ipairs(KEYS) do call('PEXPIRE', key, PURGED_WITHIN_MS) end
local blocked = call('HVALS', waiters)
local reply = {OK, call('LLEN', producer_free), call('LLEN', consumer_free), #blocked}
for _, waiter in ipairs(blocked) do reply[#reply + 1] = waiter end
for _, set in ipairs({leases, departed}) do
  for _, consumer in ipairs(call('ZRANGE', set, 0, -1)) do reply[#reply + 1] = consumer end
end
return reply
