#!lua flags=allow-oom
-- Say what the workers of one daemon are doing; what it does not say again within `ttl_ms` counts no
-- more. What others have not said again is dropped.
-- KEYS  bound workers beats
-- ARGV  ttl_ms (worker_id record)...
-- reply {OK} | {ABSENT}
local bound, workers, beats = unpack(KEYS)
local ttl_ms = tonumber(ARGV[1])

if call('EXISTS', bound) == 0 then return {ABSENT} end
local now = now_ms()
for _, id in ipairs(call('ZRANGEBYSCORE', beats, '-inf', now, 'LIMIT', 0, 100)) do
  call('HDEL', workers, id)
  call('ZREM', beats, id)
end
for i = 2, #ARGV, 2 do
  call('HSET', workers, ARGV[i], ARGV[i + 1])
  call('ZADD', beats, now + ttl_ms, ARGV[i])
end
-- Nothing stays if no daemon comes any more.
for _, key in ipairs({workers, beats}) do
  if call('PTTL', key) < ttl_ms then call('PEXPIRE', key, ttl_ms) end
end
return {OK}
