#!lua
-- Make a queue, and purge what an earlier life of its name left behind.
-- KEYS  (every fixed key, base first) taken...
-- ARGV  bound generation fixed ttl_ms (0: it lives until it is deleted)
-- reply {OK} | {EXISTS} | {AGAIN, consumer...} (call again with the taken lists of these)
local limit, generation, fixed, ttl_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = {}
for i = 1, fixed do key[i] = KEYS[i] end
local bound, not_full, producer_free, consumer_free, room, leases, departed, generation_key =
  key[2], key[11], key[5], key[6], key[14], key[16], key[17], key[13]
if call('EXISTS', bound) == 1 then return {EXISTS} end
local left = call('ZRANGE', leases, 0, -1)
for _, consumer in ipairs(call('ZRANGE', departed, 0, -1)) do left[#left + 1] = consumer end
if #left > #KEYS - fixed then return {AGAIN, unpack(left)} end
for i = 1, #KEYS do call('UNLINK', KEYS[i]) end
call('SET', bound, limit)
call('SET', generation_key, generation)
for _, list in ipairs({producer_free, consumer_free, not_full, room}) do signal(list) end
if ttl_ms > 0 then
  for i = 1, #KEYS do call('PEXPIRE', KEYS[i], ttl_ms) end
end
return {OK}
