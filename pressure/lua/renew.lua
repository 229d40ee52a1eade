#!lua flags=allow-oom
-- Renew the leases of living consumers, and name those that need the reaper.
-- KEYS  leases departed
-- ARGV  lease_ms consumer...
-- reply {{lost consumer...}, {consumer to reap...}}
local leases, departed = unpack(KEYS)
local lease_ms = tonumber(ARGV[1])

local now = now_ms()
local lost = {}
for i = 2, #ARGV do
  if call('ZSCORE', leases, ARGV[i]) then
    call('ZADD', leases, now + lease_ms, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
local due = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 50)
for _, id in ipairs(call('ZRANGEBYSCORE', departed, '-inf', now, 'LIMIT', 0, 50)) do
  due[#due + 1] = id
end
return {lost, due}
