#!lua flags=allow-oom
-- Acknowledge what the consumer is done with, and move up to `count` of the oldest items into its
-- taken list. Finding nothing, register the caller as about to block.
-- KEYS  base bound closed not_full room generation consumer_free consumer leases departed taken consumed_messages consumed_bytes fetched prefetched waiters joiners joined blobs producer producers paused resumed
-- ARGV  generation consumer client lease_ms known ("1": it has taken before, "2": and is not registered as blocked) count ahead ("1": items after the first are fetched ahead, "2": the first as well) raw ttl_ms waiter ("": none, "-": no longer blocked) number kinds tag... (see `acknowledge`; only the first and the last if they are of the oldest items that it holds, in a row)
-- reply {OK, item...} | {EMPTY} (these are not in a row, or one has a blob: nothing was done) | {EMPTY, expired, fetched_ahead} | {EMPTY, expired, 0, 1} (paused) | {CLOSED, fetched_ahead} | {ABSENT} | {AGAIN} | {LOST} | {IN_USE, holder}
local base, bound, closed, not_full, room, generation, consumer_free, consumer, leases, departed,
  taken, consumed_messages, consumed_bytes, fetched, prefetched, waiters, joiners, joined, blobs,
  producer, producers, paused, resumed = unpack(KEYS)
local expected, id, client, lease_ms, known, count, ahead, raw, ttl_ms, waiter, number, kinds =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] ~= '', tonumber(ARGV[6]), ARGV[7] ~= '',
  ARGV[8] == '1', tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11]), ARGV[12]
local wanted = ARGV[7] == '2' and 0 or 1  -- how many items somebody waits for
local FIRST = 13

local limit, current, pausing, last_client = unpack(call('MGET', bound, generation, paused, consumer))
if ARGV[5] == '2' and count == 1 and wanted == 1 and not raw and ttl_ms == 0 and (kinds == '' or kinds == 'g')
  and limit and current == expected and not pausing and call('ZSCORE', leases, id) then
  -- One item, with at most one to acknowledge: done most often, and needs no functions.
  local item = call('LMOVE', base, taken, 'RIGHT', 'LEFT')
  if item then
    local done = kinds == 'g' and call('RPOP', taken)
    -- None that was given back meanwhile, or has a blob; and nobody waits for room.
    if (not done or string.sub(done, ID, ID + 15) == ARGV[FIRST]
        and string.byte(done, FLAGS) % (2 * BLOB_FLAG) < BLOB_FLAG)
      and (limit == '0' or call('EXISTS', not_full, room) == 2) then
      if done then call('HINCRBY', fetched, id, 1) end
      if last_client ~= client then call('SET', consumer, client, 'KEEPTTL') end
      call('INCRBY', consumed_messages, 1)
      call('INCRBY', consumed_bytes, #item)
      return {OK, item}
    end
    if done then call('RPUSH', taken, done) end
    call('LMOVE', taken, base, 'LEFT', 'RIGHT')
  end
end

-- prelude
if not limit then
  call('HDEL', waiters, id)
  call('DEL', generation)  -- a 0.15 client deleted the queue, and left this
  if raw then
    -- Nor does it know of what was this consumer's.
    call('DEL', room, taken)
    call('ZREM', leases, id)
    hand_out(prefetched, id, tonumber(call('HGET', prefetched, id) or 0))
    for _, hash in ipairs({fetched, producers}) do call('HDEL', hash, id) end
  end
  return {ABSENT}
end
if current ~= expected then return {AGAIN} end
if not call('ZSCORE', leases, id) then
  if known or call('ZSCORE', departed, id) then return {LOST} end
  call('ZADD', leases, now_ms() + lease_ms, id)
  if ttl_ms > 0 then
    -- Its field makes the key stay, and with it the time it has to live.
    call('HSETNX', fetched, id, 0)
    expire(ttl_ms, fetched, leases)
  end
end
local tags = slice(FIRST, #ARGV)
if #kinds > #tags and (call('EXISTS', blobs) == 1
    or tag_of(call('LINDEX', taken, -1) or '', raw) ~= tags[1]
    or tag_of(call('LINDEX', taken, -#kinds) or '', raw) ~= tags[2]) then
  return {EMPTY}
end
local _, made_room = acknowledge(taken, kinds, tags, id, number, raw, producers, fetched,
  prefetched, blobs, joiners, joined, base)
if ttl_ms > 0 and number > 0 then call('PEXPIRE', producers, ttl_ms) end
if waiter ~= '' then call('HDEL', waiters, id) end

if call('LLEN', consumer_free) == 0 then
  if made_room then restore_room(base, bound, prefetched, not_full, room) end
  return {IN_USE, call('GET', consumer) or ''}
end
if ahead and count > wanted then
  -- Fetching ahead must not starve whoever waits, nor leave nothing for who comes next, nor make
  -- room for a 0.15 producer, who sees only the list's length. (Our names end in pid and thread.)
  if call('HLEN', waiters) > 0 or raw and tonumber(limit) > 0
    and not string.find(call('GET', producer) or '', ':%d+:%d+$') then
    count = wanted
  else
    local length = call('LLEN', base)
    if call('ZCARD', leases) > 1 then length = length / 2 end
    count = math.min(count, math.max(wanted, math.ceil(length) - 1))
  end
end
local items = count > 0 and not pausing and call('RPOP', base, count) or {}
if #items == 0 then
  if made_room and tonumber(limit) > 0 then restore_room(base, bound, prefetched, not_full, room) end
  local ahead_of_us = tonumber(call('HGET', prefetched, '*') or 0)
  local passed_over = (pausing or count == 0) and call('EXISTS', base) == 1
  if call('EXISTS', closed) == 1 and not passed_over then
    call('HDEL', waiters, id)
    return {CLOSED, ahead_of_us}
  end
  if pausing then
    call('HDEL', waiters, id)
    call('DEL', resumed)
    return {EMPTY, call('ZCOUNT', leases, '-inf', now_ms()), 0, 1}
  end
  if #waiter > 1 then
    call('HSET', waiters, id, waiter)
    if ttl_ms > 0 then call('PEXPIRE', waiters, ttl_ms) end
  end
  return {EMPTY, call('ZCOUNT', leases, '-inf', now_ms()), ahead_of_us}
end
local held = push(taken, items, false)
if ttl_ms > 0 and held == #items then expire(ttl_ms, taken) end
local bytes = 0
for i = 1, #items do bytes = bytes + #items[i] end
-- Of a bundle not all is handed out at once, so all of it counts as fetched ahead.
if ahead and wanted == 1 and not raw and behind(items[1]) > 0 then wanted = 0 end
if ahead and #items > wanted then
  call('HINCRBY', prefetched, '*', #items - wanted)
  if ttl_ms > 0 then call('PEXPIRE', prefetched, ttl_ms) end
  call('HINCRBY', prefetched, id, #items - wanted)
end
local consumed = call('INCRBY', consumed_messages, #items)
call('INCRBY', consumed_bytes, bytes)
if ttl_ms == 0 then
  if last_client ~= client then call('SET', consumer, client, 'KEEPTTL') end
else
  call('SET', consumer, client, 'PX', ttl_ms)
  if consumed == #items then expire(ttl_ms, consumed_messages, consumed_bytes) end
end
if tonumber(limit) > 0 then
  restore_room(base, bound, prefetched, not_full, room)
end
table.insert(items, 1, OK)
return items
