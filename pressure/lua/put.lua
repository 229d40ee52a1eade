#!lua
-- Put as many of the values as there is room for, once: a repeat of a producer's last number is
-- answered with what that number did, before anything else is looked at. A server that took over
-- from another may lack the end of what that had accepted: who names the last number that was
-- confirmed to him, and can put again what is missing, hears of it first. What was uploaded for a
-- put that is refused with FULL or IN_USE counts as uploaded now.
-- KEYS  base bound closed not_full room generation producers producer_free producer produced_messages produced_bytes prefetched uploads leases
-- ARGV  generation producer sequence client mode ("" | "overfill" | "head") raw ("1" | "") ttl_ms hold (how many places to reserve afterwards for this producer; -1: it never does) confirmed (this producer's last number whose reply it has; -1: never mind) value...
-- reply {OK, accepted, reserved} | {OK, accepted, reserved, consumers} (how many have a lease) | {LOST, number} (of this producer's last put here) | {FULL, uncertain (how many places others only hold)} | {CLOSED} | {ABSENT} | {AGAIN} (another generation) | {IN_USE, holder}
local base, bound, closed, not_full, room, generation, producers, producer_free, producer,
  produced_messages, produced_bytes, prefetched, uploads, leases = unpack(KEYS)
local expected, id, sequence, client, mode, raw, ttl_ms, hold =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7]), tonumber(ARGV[8])
local confirmed = tonumber(ARGV[9])
local FIRST = 10

local last = call('HGET', producers, id)
if last then
  local number, accepted = string.match(last, '^(%d+):(%d+)')
  -- A lower number comes late, over a connection that its sender gave up long ago.
  if tonumber(number) > tonumber(sequence) then return {OK, 0, 0} end
  if number == sequence then
    if accepted == '0' and #ARGV >= FIRST then return {FULL, 0} end
    local places = hold >= 0 and call('HGET', prefetched, '+' .. id)
    return {OK, tonumber(accepted), places and tonumber(string.match(places, '^%d+')) or 0}
  end
  if tonumber(number) < confirmed then return {LOST, tonumber(number)} end
elseif confirmed > 0 then
  return {LOST, 0}
end
local time = call('TIME')
-- As text: to make that of a number takes longer than all of this.
local stamp = time[1] .. string.sub('000000' .. time[2], #time[2] + 1, #time[2] + 3)
local stamped = struct.pack('>I8', stamp)
local limit, found, holder = unpack(call('MGET', bound, generation, producer))
-- Whether it is there, not closed, and no 0.15 client has the role.
local usable = limit and found == expected
  and call('EXISTS', closed, producer_free, producer_free) == 2
if usable and last and #ARGV == FIRST and mode == '' and hold < 0 then
  -- One value, and there is room for more: this is done most often, and needs no functions.
  local value = ARGV[FIRST]
  local room_left = limit == '0'
  if not room_left then
    local more = call('HMGET', prefetched, '*', '+', '#')
    local used = call('LLEN', base) + (more[1] or 0) + (more[2] or 0) + (more[3] or 0)
    room_left = used + 1 < tonumber(limit) and call('EXISTS', not_full, room) == 2
  end
  if room_left and (raw or string.byte(value, FLAGS) < BLOB_FLAG) then
    if not raw then value = string.sub(value, 1, STAMP - 1) .. stamped .. string.sub(value, STAMP + 8) end
    local length = call('LPUSH', base, value)
    call('HSET', producers, id, sequence .. ':1:' .. stamp)
    if holder ~= client then call('SET', producer, client, 'KEEPTTL') end
    call('INCRBY', produced_messages, 1)
    call('INCRBY', produced_bytes, #value)
    if ttl_ms > 0 and length == 1 then call('PEXPIRE', base, ttl_ms) end
    return {OK, 1, 0}
  end
end

-- prelude
local own = '+' .. id
stamp = tonumber(stamp)
local HOUR_MS = 3600000
-- What was refused must not happen later, when its sender has put it again under another number.
local refused = sequence .. ':0:' .. stamp
-- Whoever is refused may wait and come again: what was uploaded for that is not swept meanwhile.
local function keep_uploads()
  if raw or call('EXISTS', uploads) == 0 then return end
  for i = FIRST, #ARGV do
    local blob, chunks = blob_of(ARGV[i], false)
    if blob then call('ZADD', uploads, 'XX', stamp, blob .. string.format('%d', chunks)) end
  end
end
if not usable then
  if not limit then
    call('DEL', generation)  -- a 0.15 client deleted the queue, and left this
    if raw then
      call('DEL', room)
      call('HDEL', producers, id)
    end
    return {ABSENT}
  end
  if found ~= expected then return {AGAIN} end
  if call('EXISTS', closed) == 1 then
    signal(room)  -- the next blocked producer hears of it, too
    signal(not_full)
    live_like(bound, room, not_full)
    return {CLOSED}
  end
  call('HSET', producers, id, refused)
  keep_uploads()
  return {IN_USE, holder or ''}
end

limit = tonumber(limit)
local count = #ARGV - FIRST + 1
local had = hold >= 0 and reserved_for(prefetched, own) or 0
local before, asked = 0, count
-- How many items the values carry besides one each: bundles have several.
local more = 0
for i = FIRST, raw and 0 or #ARGV do
  if (string.byte(ARGV[i], FLAGS) or 0) >= BUNDLE_FLAG then more = more + behind(ARGV[i]) end
end
if limit > 0 then
  before = used(base, prefetched) - had
  if mode == '' and before + count + more > limit then
    local _, late = reserved(prefetched, stamp)
    for _, field in ipairs(late) do
      if field ~= own then reserve(prefetched, field, 0, stamp, reserved_for(prefetched, field)) end
    end
    if #late > 0 then before = used(base, prefetched) - had end
    local left = limit - before - count - more
    while left < 0 and count > 0 do
      local last_one = raw and 0 or behind(ARGV[FIRST + count - 1])
      count, more, left = count - 1, more - last_one, left + 1 + last_one
    end
    if count == 0 and asked > 0 then
      -- 0.15 clients leave an element there now and then, and a place may have been freed here.
      if had > 0 then reserve(prefetched, own, 0, stamp, had) end
      restore_room(base, bound, prefetched, not_full, room)
      call('HSET', producers, id, refused)
      keep_uploads()
      return {FULL, before - call('LLEN', base)}
    end
  end
  -- Others may want to put as well.
  local left = limit - before - count - more
  if hold > 0 and tonumber(call('HGET', prefetched, '+') or 0) > had then left = math.ceil(left / 2) end
  hold = math.min(hold, left)
end
hold = math.max(0, hold)
if hold > 0 or had > 0 then reserve(prefetched, own, hold, stamp, had) end
before = before + hold
if not last then
  -- Forget some producers that were killed long ago.
  for _, other in ipairs(call('HRANDFIELD', producers, 4)) do
    local seen = string.match(call('HGET', producers, other), '%d+$')
    if stamp - tonumber(seen) > HOUR_MS then call('HDEL', producers, other) end
  end
end
local values, bytes = {}, 0
for i = 1, count do
  local value = ARGV[FIRST + i - 1]
  if not raw then
    end_upload(uploads, value)
    value = string.sub(value, 1, STAMP - 1) .. stamped .. string.sub(value, STAMP + 8)
  end
  values[i] = value
  bytes = bytes + #value
end
local length = count > 0 and push(base, values, mode == 'head')
count_behind(prefetched, more)
call('HSET', producers, id, sequence .. ':' .. count .. ':' .. stamp)
if holder ~= client then call('SET', producer, client, 'KEEPTTL') end
call('INCRBY', produced_messages, count)
call('INCRBY', produced_bytes, bytes)
if limit > 0 then
  if before + count + more >= limit then
    call('DEL', not_full, room)
  elseif call('EXISTS', not_full, room) < 2 then
    signal(not_full)
    signal(room)
  end
end
if ttl_ms > 0 then
  if length == count then expire(ttl_ms, base) end
  if not last then expire(ttl_ms, producers, producer, produced_messages, produced_bytes) end
  if limit > 0 then expire(ttl_ms, not_full, room) end
  if hold > 0 or more > 0 then expire(ttl_ms, prefetched) end
end
return {OK, count, hold, call('ZCARD', leases)}
