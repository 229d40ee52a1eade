#!lua flags=allow-oom
-- Finish and claim: record the outcomes of leased items in the reply queues that they belong to,
-- acknowledge them, and take the next ones. An outcome whose item is gone from the taken list is
-- dropped, since its lease was lost; one whose reply queue is gone is counted as an orphan.
-- KEYS  base bound closed not_full room generation consumer_free consumer leases departed taken consumed_messages consumed_bytes prefetched waiters joiners joined blobs dead_letters orphans (reply_base reply_bound reply_blobs reply_uploads)...
-- ARGV  generation consumer client lease_ms known count ttl_ms waiter outcomes replies (two bytes per outcome: the number of its four keys, 0: none) tag... value... (outcome reason)... (numbers of outcomes whose items go to the dead letters, and why)
-- reply {OK, dropped, item...} | {EMPTY, dropped, expired} | {CLOSED, dropped} | {ABSENT} | {AGAIN} | {LOST} | {IN_USE, holder}
local base, bound, closed, not_full, room, generation, consumer_free, consumer, leases, departed,
  taken, consumed_messages, consumed_bytes, prefetched, waiters, joiners, joined, blobs,
  dead_letters, orphans = unpack(KEYS)
local REPLIES = 20
local expected, id, client, lease_ms, known, count, ttl_ms, waiter, outcomes, replies =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6]),
  tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), ARGV[10]
local BEFORE = 10

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

local reasons = {}
for i = BEFORE + 2 * outcomes + 1, #ARGV, 2 do reasons[tonumber(ARGV[i])] = ARGV[i + 1] end
local dropped, answers = 0, {}
local has_blobs = call('EXISTS', blobs) == 1
for i, value in ipairs(remove(taken, slice(BEFORE + 1, BEFORE + outcomes), false)) do
  if not value then
    dropped = dropped + 1
  else
    if reasons[i] then
      bury(dead_letters, value, reasons[i])
    elseif has_blobs then
      drop_blob(blobs, value, false)
    end
    local high, low = string.byte(replies, 2 * i - 1, 2 * i)
    local pair = high * 256 + low
    if pair > 0 then
      local queue = answers[pair] or {}
      answers[pair] = queue
      queue[#queue + 1] = ARGV[BEFORE + outcomes + i]
    end
  end
end
for pair, queue in pairs(answers) do
  local first = REPLIES + 4 * pair - 3
  local reply_base, reply_bound, reply_blobs, reply_uploads = unpack(KEYS, first, first + 3)
  local lives = call('PTTL', reply_bound)
  if call('EXISTS', reply_uploads) == 1 then
    for _, answer in ipairs(queue) do
      if end_upload(reply_uploads, answer) and lives == -2 then drop_blob(reply_blobs, answer) end
    end
  end
  if lives == -2 then
    call('INCRBY', orphans, #queue)
  else
    push(reply_base, queue, false)
    if lives > 0 then call('PEXPIRE', reply_base, lives) end
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
