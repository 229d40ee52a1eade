#!lua flags=allow-oom
-- Finish and claim: record the outcomes of leased items in the reply queues that they belong to,
-- acknowledge them, and take the next ones. An outcome whose item is gone from the taken list is
-- dropped, since its lease was lost; one whose reply queue is gone is counted as an orphan.
-- KEYS  base bound closed not_full room generation consumer_free consumer leases departed taken consumed_messages consumed_bytes prefetched waiters joiners joined blobs dead_letters orphans (reply_base reply_bound)...
-- ARGV  generation consumer client lease_ms known count ttl_ms waiter outcomes (tag reply value dead_letter)... (reply: number of the pair of keys; dead_letter: its reason, or "")
-- reply {OK, dropped, item...} | {EMPTY, dropped, expired} | {CLOSED, dropped} | {ABSENT} | {AGAIN} | {LOST} | {IN_USE, holder}
local base, bound, closed, not_full, room, generation, consumer_free, consumer, leases, departed,
  taken, consumed_messages, consumed_bytes, prefetched, waiters, joiners, joined, blobs,
  dead_letters, orphans = unpack(KEYS)
local REPLIES = 20
local expected, id, client, lease_ms, known, count, ttl_ms, waiter, outcomes =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6]),
  tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local FIRST, WIDTH = 10, 4

local limit = call('GET', bound)
if not limit then
  call('HDEL', waiters, id)
  return {ABSENT}
end
if call('GET', generation) ~= expected then return {AGAIN} end
local now
if not call('ZSCORE', leases, id) then
  if known or call('ZSCORE', departed, id) then return {LOST} end
  now = now_ms()
  call('ZADD', leases, now + lease_ms, id)
end

if waiter == '-' then call('HDEL', waiters, id) end

local tags = {}
for i = 1, outcomes do tags[i] = ARGV[FIRST + (i - 1) * WIDTH] end
local dropped = 0
for i, value in ipairs(remove(taken, tags, false)) do
  local at = FIRST + (i - 1) * WIDTH
  local reply, outcome, reason = tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  if not value then
    dropped = dropped + 1
  else
    if reason ~= '' then
      bury(dead_letters, value, reason)
    else
      drop_blob(blobs, value, false)
    end
    if reply > 0 then
      local reply_base, reply_bound = KEYS[REPLIES + 2 * reply - 1], KEYS[REPLIES + 2 * reply]
      local lives = call('PTTL', reply_bound)
      if lives == -2 then
        call('INCR', orphans)
      elseif call('LPUSH', reply_base, outcome) == 1 and lives > 0 then
        call('PEXPIRE', reply_base, lives)
      end
    end
  end
end
if outcomes > dropped and call('LLEN', base) == 0 then hint_joiners(joiners, joined) end

if call('LLEN', consumer_free) == 0 then return {IN_USE, call('GET', consumer) or ''} end
local items = count > 0 and call('RPOP', base, count) or {}
if #items == 0 then
  if call('EXISTS', closed) == 1 then
    call('HDEL', waiters, id)
    return {CLOSED, dropped}
  end
  if #waiter > 1 then call('HSET', waiters, id, waiter) end
  return {EMPTY, dropped, call('ZCOUNT', leases, '-inf', now or now_ms())}
end
push(taken, items, false)
if ttl_ms > 0 then call('PEXPIRE', taken, ttl_ms) end
local bytes = 0
for i = 1, #items do bytes = bytes + #items[i] end
call('SET', consumer, client)
call('INCRBY', consumed_messages, #items)
call('INCRBY', consumed_bytes, bytes)
if tonumber(limit) > 0 then restore_room(base, bound, prefetched, not_full, room) end
table.insert(items, 1, dropped)
table.insert(items, 1, OK)
return items
