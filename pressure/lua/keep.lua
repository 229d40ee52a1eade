#!lua flags=allow-oom
-- The owner of an anonymous queue is alive: all its keys live for another while. With a time of 0
-- nothing changes. The reply names all consumers, those that departed last.
-- KEYS  (every fixed key, base first) taken...
-- ARGV  ttl_ms
-- reply {OK, living, consumer...} (the living come first; call again if not all were given) | {ABSENT}
local ttl_ms = tonumber(ARGV[1])
local bound, leases, departed = KEYS[2], KEYS[16], KEYS[17]
if call('EXISTS', bound) == 0 then return {ABSENT} end
if ttl_ms > 0 then
  for _, key in ipairs(KEYS) do call('PEXPIRE', key, ttl_ms) end
end
local reply = {OK, call('ZCARD', leases)}
for _, set in ipairs({leases, departed}) do
  for _, consumer in ipairs(call('ZRANGE', set, 0, -1)) do reply[#reply + 1] = consumer end
end
return reply
