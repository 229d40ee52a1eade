#!lua
-- Note that a blob is about to be uploaded, and drop those for which no put came within an hour.
-- KEYS  uploads blobs bound
-- ARGV  blob_id chunks ttl_ms (0: the queue lives until it is deleted)
-- reply {OK} | {ABSENT}
local uploads, blobs, bound = unpack(KEYS)
local id, chunks, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local HOUR_MS = 3600000

if call('EXISTS', bound) == 0 then return {ABSENT} end
local now = now_ms()
for _, old in ipairs(call('ZRANGEBYSCORE', uploads, '-inf', now - HOUR_MS, 'LIMIT', 0, 10)) do
  local old_id, old_chunks = string.sub(old, 1, 16), tonumber(string.sub(old, 17))
  for i = 0, old_chunks - 1 do call('HDEL', blobs, old_id .. struct.pack('>I4', i)) end
  call('ZREM', uploads, old)
end
call('ZADD', uploads, now, id .. chunks)
if ttl_ms > 0 then
  -- The chunks come by plain commands, which keep the time to live of a key that is there.
  call('HSETNX', blobs, id .. struct.pack('>I4', 0), '')
  for _, key in ipairs({uploads, blobs}) do call('PEXPIRE', key, ttl_ms) end
end
return {OK}
