-- What every script shares. It is put in front of each script when that is loaded.

-- The first element of each reply. protocol.md lists them; pressure/protocol.py maps them to errors.
local OK, ABSENT, CLOSED, FULL, EMPTY, IN_USE, LOST, EXISTS, AGAIN = 0, -1, -2, -3, -4, -5, -6, -7, -8

-- Offsets of the envelope's fields, from 1 as Lua counts.
local FLAGS, DELIVERIES, STAMP, ID, BODY = 2, 5, 7, 15, 67
local BLOB_FLAG, BUNDLE_FLAG = 2, 4
local BLOB_ID = BODY + 12  -- after the numbers of chunks and of bytes
local SLICE = 1000  -- how many values one unpack() may carry

local call = redis.call

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What stands in a key as a number. Anybody may have written it: it need not be a number, nor one that fits into a reply.
local function whole(value, otherwise)
  local number = tonumber(value or 0)
  if not number or number ~= number then return otherwise end
  return math.max(-2 ^ 53, math.min(number, 2 ^ 53))
end

-- A list that holds one element while something is true, so that clients can block on it.
local function signal(list)
  if call('LLEN', list) == 0 then call('LPUSH', list, '1') end
end

-- Wake everybody who is blocked on such a list. What nobody pops goes with the queue.
local function wake_all(list)
  local ones = {}
  for i = 1, SLICE do ones[i] = '1' end
  call('LPUSH', list, unpack(ones))
end

-- Wake the consumers that wait for the end of a pause, if one does: each puts the element back for
-- the next. Who looks later than a slice after this asks anew.
local function wake_paused(resumed)
  signal(resumed)
  call('PEXPIRE', resumed, 10000)
end

-- Give keys that came into being their time to live. What was there is renewed by the owner.
local function expire(ttl_ms, ...)
  for _, key in ipairs({...}) do call('PEXPIRE', key, ttl_ms) end
end

-- The same, where the caller has not been told the time: keys live for as long as the queue.
local function live_like(bound, ...)
  local left = call('PTTL', bound)
  if left > 0 then expire(left, ...) end
end

-- How many items count against the bound: those in the list, those that consumers have fetched
-- ahead without handing them out ('*'), what bundles hold besides the one item as which they are
-- counted ('#'), and the places reserved for producers ('+').
local function used(base, prefetched)
  local more = call('HMGET', prefetched, '*', '+', '#')
  return call('LLEN', base) + (more[1] or 0) + (more[2] or 0) + (more[3] or 0)
end

-- How many items an envelope carries besides the first.
local function behind(value)
  if #value <= BODY or math.floor(string.byte(value, FLAGS) / BUNDLE_FLAG) % 2 == 0 then return 0 end
  return math.max(0, struct.unpack('>I2', value, BODY) - 1)
end

-- Count them as there, or as gone.
local function count_behind(prefetched, change)
  if change ~= 0 and call('HINCRBY', prefetched, '#', change) <= 0 then
    call('HDEL', prefetched, '#')
  end
end

-- The places that are reserved, those of producers that died or stood still aside; and the names of
-- the latter's fields. A producer's field is '+' and its id, its value `places:expiry_ms`.
local RESERVED_MS = 2000
local function reserved(prefetched, now)
  local total, late = 0, {}
  if not call('HGET', prefetched, '+') then return total, late end
  local fields = call('HGETALL', prefetched)
  for i = 1, #fields, 2 do
    if #fields[i] == 17 and string.sub(fields[i], 1, 1) == '+' then
      local places, expiry = string.match(fields[i + 1], '^(%d+):(%d+)$')
      if tonumber(expiry) > now then total = total + places else late[#late + 1] = fields[i] end
    end
  end
  return total, late
end

-- How many places are reserved for a producer.
local function reserved_for(prefetched, field)
  return tonumber(string.match(call('HGET', prefetched, field) or '0', '^%d+'))
end

-- Reserve `places` for a producer in place of those it had; 0 frees them.
local function reserve(prefetched, field, places, now, had)
  local change = places - had
  if places > 0 then
    call('HSET', prefetched, field, string.format('%d:%d', places, now + RESERVED_MS))
  else
    call('HDEL', prefetched, field)
  end
  if change ~= 0 and call('HINCRBY', prefetched, '+', change) == 0 then
    call('HDEL', prefetched, '+')
  end
end

-- Restore the invariant "one element if and only if there is room".
local function restore_room(base, bound, prefetched, not_full, room)
  local limit = tonumber(call('GET', bound) or 0)
  if limit > 0 and used(base, prefetched) >= limit then
    call('DEL', not_full, room)
  elseif call('EXISTS', not_full, room) < 2 then
    signal(not_full)
    signal(room)
    live_like(bound, not_full, room)
  end
end

-- What an item is called in acknowledgements: its message id or, for raw items, its digest.
local function tag_of(value, raw)
  if raw then return redis.sha1hex(value) end
  return string.sub(value, ID, ID + 15)
end

-- Push values to the newest end, or to the oldest so that the first of them is taken next.
-- Returns how many there are then.
local function push(base, values, at_head)
  local length = 0
  if at_head then
    for i = #values, 1, -1 do length = call('RPUSH', base, values[i]) end
  else
    for i = 1, #values, SLICE do
      length = call('LPUSH', base, unpack(values, i, math.min(i + SLICE - 1, #values)))
    end
  end
  return length
end

-- Remove the items with these tags from a taken list. Returns their values, in the order of the
-- tags, with false for those that are not there, and whether all were. Tags in the order of taking
-- cost two commands. With a `count` that exceeds the tags, it is that many of the oldest.
local function remove(taken, tags, raw, count)
  local values = {}
  if #tags == 0 then return values, true end
  if count and #tags < count then
    call('LTRIM', taken, 0, -count - 1)
    return values, true
  end
  if #tags == 1 then
    local value = call('RPOP', taken)
    if value and tag_of(value, raw) == tags[1] then return {value}, true end
    if value then call('RPUSH', taken, value) end
  end
  local oldest = call('LRANGE', taken, -#tags, -1)
  local in_order = #oldest == #tags
  for i = 1, #tags do
    if not in_order then break end
    values[i] = oldest[#oldest - i + 1]
    in_order = tag_of(values[i], raw) == tags[i]
  end
  if in_order then
    call('LTRIM', taken, 0, -#tags - 1)
    return values, true
  end
  local by_tag = {}
  for _, value in ipairs(call('LRANGE', taken, 0, -1)) do by_tag[tag_of(value, raw)] = value end
  for i = 1, #tags do
    values[i] = by_tag[tags[i]] or false
    if values[i] and call('LREM', taken, -1, values[i]) == 0 then values[i] = false end
  end
  return values, false
end

-- The id of the blob that an envelope refers to, and its number of chunks; nil if it has none.
-- Anybody may have written the value: it need not be an envelope, nor tell the truth.
local function blob_of(value, raw)
  if raw or #value < BLOB_ID + 15 then return nil end
  if math.floor(string.byte(value, FLAGS) / BLOB_FLAG) % 2 == 0 then return nil end
  return string.sub(value, BLOB_ID, BLOB_ID + 15), struct.unpack('>I4', value, BODY)
end

-- Free the blob that an envelope refers to, if it does.
local function drop_blob(blobs, value, raw)
  local id, chunks = blob_of(value, raw)
  for i = 0, id and math.min(chunks, call('HLEN', blobs)) - 1 or -1 do
    call('HDEL', blobs, id .. struct.pack('>I4', i))
  end
end

-- The upload of the blob that an envelope refers to (if it does) is over. Returns whether it was
-- still under way.
local function end_upload(uploads, value)
  local id, chunks = blob_of(value, false)
  return id and call('ZREM', uploads, id .. string.format('%d', chunks)) == 1
end

-- A copy of the value with its count of deliveries increased. The count is outside the signature.
local function charged(value)
  if #value < BODY - 1 then return value end
  local count = struct.unpack('>I2', value, DELIVERIES)
  return string.sub(value, 1, DELIVERIES - 1)
    .. struct.pack('>I2', math.min(count + 1, 65535))
    .. string.sub(value, DELIVERIES + 2)
end

-- Take `count` off what a consumer has fetched ahead, as far as it is counted there.
local function hand_out(prefetched, consumer, count)
  if count > 0 then count = math.min(count, tonumber(call('HGET', prefetched, consumer) or 0)) end
  if count > 0 then
    call('HINCRBY', prefetched, '*', -count)
    if call('HINCRBY', prefetched, consumer, -count) == 0 then call('HDEL', prefetched, consumer) end
  end
end

-- Wake whoever waits in join(), who then counts exactly.
local function hint_joiners(joiners, joined)
  if call('EXISTS', joiners) == 1 then
    signal(joined)
    call('PEXPIRE', joined, 10000)  -- whoever joins looks more often than that
  end
end

-- ARGV[first..last] as a table.
local function slice(first, last)
  local values = {}
  for i = first, last do values[#values + 1] = ARGV[i] end
  return values
end

-- Acknowledge items of a taken list. `kinds` has a letter for each tag: 'g' for an item that get()
-- returned, which stays unfinished until task_done(); 'a' for one that was also fetched ahead; 'f'
-- for a leased one, which is finished. A number that was seen from this consumer is not carried out
-- again (0: unnumbered). Returns how many of the leased ones were there, and whether room was made.
local function acknowledge(taken, kinds, tags, id, number, raw, producers, fetched, prefetched, blobs,
    joiners, joined, base)
  if #tags > 0 and number > 0 then
    local last = string.match(call('HGET', producers, id) or '', '^%d+')
    if tonumber(last or 0) >= number then return 0, false end
    call('HSET', producers, id, string.format('%d:0:%d', number, now_ms()))
  end
  local found = {g = 0, a = 0, f = 0}
  local more, bundles = 0, not raw and call('HGET', prefetched, '#')
  if bundles and #tags < #kinds then
    for _, value in ipairs(call('LRANGE', taken, -#kinds, -1)) do more = more + behind(value) end
  end
  local values, all = remove(taken, tags, raw, #kinds)
  if bundles then
    for _, value in ipairs(values) do if value then more = more + behind(value) end end
    count_behind(prefetched, -more)
  end
  if all and call('EXISTS', blobs) == 0 then
    for kind in pairs(found) do found[kind] = select(2, string.gsub(kinds, kind, '')) end
  else
    for i, value in ipairs(values) do
      if value then
        local kind = string.sub(kinds, i, i)
        found[kind] = found[kind] + 1
        drop_blob(blobs, value, raw)
      end
    end
  end
  if found.g + found.a > 0 then call('HINCRBY', fetched, id, found.g + found.a) end
  hand_out(prefetched, id, found.a)
  if found.f > 0 and call('LLEN', base) == 0 then hint_joiners(joiners, joined) end
  return found.f, found.a + more > 0
end

-- Append a value to the dead letters: when, the length of the reason, the reason (JSON), the value.
local function bury(dead_letters, value, reason)
  call('LPUSH', dead_letters,
    struct.pack('>I8', now_ms()) .. struct.pack('>I4', #reason) .. reason .. value)
end

-- The item that a dead letter holds. Anybody may have written the letter: it need not be one.
local function buried_item(letter)
  if #letter < 12 then return letter end
  return string.sub(letter, 13 + struct.unpack('>I4', letter, 9))
end
