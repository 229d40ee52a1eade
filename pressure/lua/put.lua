#!lua
-- Put as many of the values as there is room for, once: a repeat of a producer's last number is
-- answered with what that number did, before anything else is looked at.
-- KEYS  base bound closed not_full room generation producers producer_free producer produced_messages produced_bytes prefetched uploads
-- ARGV  generation producer sequence client mode ("" | "overfill" | "head") raw ("1" | "") ttl_ms value...
-- reply {OK, accepted} | {FULL} | {CLOSED} | {ABSENT} | {AGAIN} (another generation) | {IN_USE, holder}
local base, bound, closed, not_full, room, generation, producers, producer_free, producer,
  produced_messages, produced_bytes, prefetched, uploads = unpack(KEYS)
local expected, id, sequence, client, mode, raw, ttl_ms =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7])
local FIRST = 8

local last = call('HGET', producers, id)
if last then
  local number, accepted = string.match(last, '^(%d+):(%d+)')
  if number == sequence then return {OK, tonumber(accepted)} end
end
local limit = call('GET', bound)
if not limit then return {ABSENT} end
if call('GET', generation) ~= expected then return {AGAIN} end
if call('EXISTS', closed) == 1 then
  signal(room)  -- the next blocked producer hears of it, too
  return {CLOSED}
end
if call('LLEN', producer_free) == 0 then return {IN_USE, call('GET', producer) or ''} end

limit = tonumber(limit)
local count = #ARGV - FIRST + 1
local before = 0
if limit > 0 then
  before = used(base, prefetched)
  if mode == '' then
    count = math.min(count, limit - before)
    if count <= 0 then return {FULL} end
  end
end
local stamp = now_ms()
local stamped, values, bytes = struct.pack('>I8', stamp), {}, 0
for i = 1, count do
  local value = ARGV[FIRST + i - 1]
  if not raw then
    if math.floor(string.byte(value, FLAGS) / BLOB_FLAG) % 2 == 1 then
      call('ZREM', uploads, string.sub(value, ID, ID + 15) .. struct.unpack('>I4', value, BODY))
    end
    value = string.sub(value, 1, STAMP - 1) .. stamped .. string.sub(value, STAMP + 8)
  end
  values[i] = value
  bytes = bytes + #value
end
push(base, values, mode == 'head')
call('HSET', producers, id, sequence .. ':' .. count .. ':' .. string.format('%d', stamp))
call('SET', producer, client)
call('INCRBY', produced_messages, count)
call('INCRBY', produced_bytes, bytes)
if limit > 0 then
  if before + count >= limit then
    call('DEL', not_full, room)
  else
    signal(not_full)
    signal(room)
  end
end
if ttl_ms > 0 then
  for _, key in ipairs({base, producers, producer, produced_messages, produced_bytes, not_full, room}) do
    call('PEXPIRE', key, ttl_ms)
  end
end
return {OK, count}
