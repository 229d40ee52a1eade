#!lua flags=allow-oom
-- Finish and claim: record the outcomes of leased items in the reply queues that they belong to,
-- acknowledge them, and take the next ones. An outcome whose item is gone from the taken list is
-- dropped, since its lease was lost; one whose reply queue is gone is counted as an orphan.
-- KEYS  base bound closed not_full room generation consumer leases departed taken consumed_messages consumed_bytes prefetched waiters joiners joined blobs dead_letters orphans paused resumed (reply_base reply_bound reply_blobs reply_uploads)...
-- ARGV  generation consumer client lease_ms known ("1": it has taken before) count ttl_ms waiter ("": none, or known) moved (bytes of an item that BLMOVE brought and that was not settled; 0: none) outcomes (negative: of all that it holds, which are as many items) replies (two bytes per outcome: the number of its four keys, 0: none; if they are of all that it holds, two per value, or two if all are for the same) tag... value... (outcome reason)... (numbers of outcomes whose items go to the dead letters, and why); if they are of all: oldest_tag newest_tag value...
-- reply {OK, dropped, item...} | {EMPTY, dropped, expired} | {EMPTY, outcomes} (it holds others, or one has a blob: nothing was done) | {EMPTY, dropped, expired, 1} (paused) | {CLOSED, dropped} | {ABSENT} | {AGAIN} | {LOST}
local base, bound, closed, not_full, room, generation, consumer, leases, departed, taken,
  consumed_messages, consumed_bytes, prefetched, waiters, joiners, joined, blobs, dead_letters,
  orphans, paused, resumed = unpack(KEYS)
local REPLIES = 21
local expected, id, client, lease_ms, known, count, ttl_ms, waiter, moved, outcomes, replies =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6]),
  tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local BEFORE = 11
local FEW = 16
local CAP = 3  -- where an envelope says how often it may be delivered
local SEVERAL = 6  -- how a body begins that carries several answers; their number follows

local current, pausing, limit, holder = unpack(call('MGET', generation, paused, bound, consumer))
if outcomes == -1 and replies == '\0\1' and moved > 0 and count > 0 and current == expected and limit
  and not pausing and string.byte(ARGV[BEFORE + 3], FLAGS) < BLOB_FLAG
  and call('EXISTS', base, closed, joiners) == 0
  and (limit == '0' or call('EXISTS', not_full, room) == 2) then
  -- A lone task, which BLMOVE brought, and nothing to take: its client waits. Needs no functions.
  local lives = call('PTTL', KEYS[REPLIES + 2])
  local held = lives ~= -2 and call('RPOP', taken, 2)
  if held and #held == 1 and string.sub(held[1], ID, ID + 15) == ARGV[BEFORE + 1]
    and string.byte(held[1], FLAGS) % (2 * BLOB_FLAG) < BLOB_FLAG then
    call('LPUSH', KEYS[REPLIES + 1], ARGV[BEFORE + 3])
    if lives > 0 then call('PEXPIRE', KEYS[REPLIES + 1], lives) end
    if ttl_ms > 0 then
      call('SET', consumer, client, 'PX', ttl_ms)
    elseif holder ~= client then
      call('SET', consumer, client, 'KEEPTTL')
    end
    local consumed = call('INCRBY', consumed_messages, 1)
    call('INCRBY', consumed_bytes, moved)
    if #waiter > 1 then call('HSET', waiters, id, waiter) end
    if ttl_ms > 0 then
      call('PEXPIRE', waiters, ttl_ms)
      if consumed == 1 then
        call('PEXPIRE', consumed_messages, ttl_ms)
        call('PEXPIRE', consumed_bytes, ttl_ms)
      end
    end
    return {EMPTY, 0, 0}
  elseif held then
    for i = #held, 1, -1 do call('RPUSH', taken, held[i]) end
    if ttl_ms > 0 then call('PEXPIRE', taken, ttl_ms) end
  end
end

-- prelude
local whole = outcomes < 0
if current ~= expected then
  call('HDEL', waiters, id)
  if not limit then
    call('DEL', taken)
    return {ABSENT}
  end
  -- This queue doesn't know the consumer, so no reaper would find what BLMOVE has brought: it goes
  -- back. What may be delivered only once, and has an outcome, which is thrown away, is charged.
  local begun = {}
  for i = 1, outcomes do begun[ARGV[BEFORE + i]] = true end
  local value = call('LPOP', taken)
  while value do
    if (whole or begun[tag_of(value, false)]) and string.sub(value, CAP, CAP + 1) == '\0\1' then
      value = string.sub(value, 1, DELIVERIES - 1) .. '\0\1' .. string.sub(value, DELIVERIES + 2)
    end
    call('RPUSH', base, value)
    value = call('LPOP', taken)
  end
  live_like(bound, base)
  restore_room(base, bound, prefetched, not_full, room)
  return {AGAIN}
end
if whole then
  outcomes = -outcomes
  if call('LLEN', taken) ~= outcomes or call('EXISTS', blobs) == 1
    or tag_of(call('LINDEX', taken, -1), false) ~= ARGV[BEFORE + 1]
    or tag_of(call('LINDEX', taken, 0), false) ~= ARGV[BEFORE + 2] then
    return {EMPTY, outcomes}
  end
  call('DEL', taken)
end
local reasons, dropped, answers = {}, 0, {}
-- The number of the keys of the reply queue that an outcome is for.
local function pair_of(i)
  local high, low = string.byte(replies, 2 * i - 1, 2 * i)
  return high * 256 + low
end
local function answer(i, value)
  local pair = pair_of(i)
  if pair > 0 then
    local queue = answers[pair] or {}
    answers[pair] = queue
    queue[#queue + 1] = value
  end
end
if whole and #replies == 2 then
  -- As it mostly is: nothing has to be done for each of them.
  if pair_of(1) > 0 then answers[pair_of(1)] = slice(BEFORE + 3, #ARGV) end
elseif whole then
  for i = 1, #replies / 2 do answer(i, ARGV[BEFORE + 2 + i]) end
else
  for i = BEFORE + 2 * outcomes + 1, #ARGV, 2 do reasons[tonumber(ARGV[i])] = ARGV[i + 1] end
  for i, value in ipairs(remove(taken, slice(BEFORE + 1, BEFORE + outcomes), false, outcomes)) do
    if not value then
      dropped = dropped + 1
    else
      if reasons[i] then bury(dead_letters, value, reasons[i]) else drop_blob(blobs, value, false) end
      answer(i, ARGV[BEFORE + outcomes + i])
    end
  end
end
if next(reasons) then live_like(bound, dead_letters) end
-- A lease that was lost took the whole list with it: who still held something has its lease.
if dropped == outcomes and not call('ZSCORE', leases, id) then
  if known or call('ZSCORE', departed, id) then
    if not call('ZSCORE', departed, id) then
      -- The same; or else the reaper looks.
      while call('LMOVE', taken, base, 'LEFT', 'RIGHT') do end
      live_like(bound, base)
      restore_room(base, bound, prefetched, not_full, room)
    end
    return {LOST}
  end
  call('ZADD', leases, now_ms() + lease_ms, id)
  if ttl_ms > 0 then expire(ttl_ms, leases) end
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
    local many = 0
    for _, value in ipairs(queue) do
      local kind, high, low = string.byte(value, BODY, BODY + 2)
      many = many + (kind == SEVERAL and high * 256 + low or 1)
    end
    if call('INCRBY', orphans, many) == many then live_like(bound, orphans) end
  else
    push(reply_base, queue, false)
    if lives > 0 then call('PEXPIRE', reply_base, lives) end
  end
end

if count > 1 and count <= FEW then
  -- Who takes few has long tasks. Of the last ones everybody gets a share, rather than one consumer
  -- several while others have none.
  local share = call('LLEN', base) / math.max(1, call('ZCARD', leases))
  count = math.max(1, math.min(count, math.floor(share)))
end
local items = count > 0 and not pausing and call('RPOP', base, count) or {}
local bytes, messages = moved, #items
for i = 1, #items do bytes = bytes + #items[i] end
if moved > 0 then messages = messages + 1 end
if #items > 0 then
  push(taken, items, false)
  if ttl_ms > 0 then call('PEXPIRE', taken, ttl_ms) end
end
if messages > 0 then
  if ttl_ms > 0 then
    call('SET', consumer, client, 'PX', ttl_ms)
  else
    call('SET', consumer, client, 'KEEPTTL')
  end
  local consumed = call('INCRBY', consumed_messages, messages)
  call('INCRBY', consumed_bytes, bytes)
  if ttl_ms > 0 and consumed == messages then
    expire(ttl_ms, consumed_messages, consumed_bytes)
  end
  -- Nothing that was done here takes up room.
  if (call('GET', bound) or '0') ~= '0' and call('EXISTS', not_full, room) < 2 then
    restore_room(base, bound, prefetched, not_full, room)
  end
end
if #items > 0 then
  table.insert(items, 1, dropped)
  table.insert(items, 1, OK)
  return items
end
if outcomes > dropped then hint_joiners(joiners, joined) end
-- 0 or 1: deleted, 2: open, 3: closed.
local state = call('EXISTS', bound, bound, closed)
if state < 2 then
  call('HDEL', waiters, id)
  return {ABSENT}
end
if state == 3 and not (pausing and call('EXISTS', base) == 1) then
  call('HDEL', waiters, id)
  return {CLOSED, dropped}
end
if pausing then
  call('HDEL', waiters, id)
  call('DEL', resumed)
elseif #waiter > 1 then
  call('HSET', waiters, id, waiter)
  if ttl_ms > 0 then expire(ttl_ms, waiters) end
end
-- Who comes without an outcome has waited for a while, and sees to the dead.
local expired = outcomes == 0 and call('ZCOUNT', leases, '-inf', now_ms()) or 0
return {EMPTY, dropped, expired, pausing and 1 or nil}
