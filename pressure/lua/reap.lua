#!lua flags=allow-oom
-- Put back what a dead consumer held, and forget what it had fetched and not finished. A departed
-- id is looked at again for an hour, since a late command may still move something to it.
-- KEYS  base bound not_full room leases departed taken fetched prefetched waiters joiners joined consumed_messages consumed_bytes deliveries departures
-- ARGV  consumer raw force ("1": its death is certain) keep_ms charge_oldest ("1" | "") charged_tag...
-- reply {OK, given_back} | {AGAIN} (it is alive)
local base, bound, not_full, room, leases, departed, taken, fetched, prefetched, waiters, joiners,
  joined, consumed_messages, consumed_bytes, deliveries, departures = unpack(KEYS)
local id, raw, force, keep_ms, charge_oldest =
  ARGV[1], ARGV[2] == '1', ARGV[3] == '1', tonumber(ARGV[4]), ARGV[5] == '1'
local to_charge = {}
for i = 6, #ARGV do to_charge[ARGV[i]] = true end

local now = now_ms()
local expiry = tonumber(call('ZSCORE', leases, id) or 0)
if expiry > now and not force then return {AGAIN} end

if call('EXISTS', bound) == 0 then
  call('DEL', taken)
  for _, set in ipairs({leases, departed}) do call('ZREM', set, id) end
  call('HDEL', departures, id)
  return {OK, 0}
end
local values, bytes = {}, 0
local held = call('LRANGE', taken, 0, -1)
for i = #held, 1, -1 do
  local value = held[i]
  local tag = tag_of(value, raw)
  bytes = bytes + #value
  if to_charge[tag] or (charge_oldest and i == #held and expiry > 0) then
    if raw then call('HINCRBY', deliveries, tag, 1) else value = charged(value) end
  end
  values[#values + 1] = value
end
call('DEL', taken)
call('HDEL', waiters, id)
if expiry > 0 then
  call('ZREM', leases, id)
  hand_out(prefetched, id, tonumber(call('HGET', prefetched, id) or 0))
  -- What others have called task_done() for on its behalf is owed to the consumer named '*'.
  local unfinished = tonumber(call('HGET', fetched, id) or 0)
  local owed = -math.min(0, tonumber(call('HGET', fetched, '*') or 0))
  if owed > 0 and unfinished > 0 then
    call('HINCRBY', fetched, '*', math.min(owed, unfinished))
  end
  call('HDEL', fetched, id)
end
-- A departed id is looked at again after 1, 2, 4, ... seconds: the score is the next time.
if call('HGET', departures, id) == 'old' then
  -- What it held belongs to an earlier queue of this name (see `describe`).
  values = {}
  call('HDEL', departures, id)
end
call('HSETNX', departures, id, now)
local age = now - call('HGET', departures, id)
if age >= keep_ms then
  call('ZREM', departed, id)
  call('HDEL', departures, id)
else
  call('ZADD', departed, now + math.max(1000, age), id)
end
if #values > 0 then
  push(base, values, true)
  if expiry > 0 then
    call('DECRBY', consumed_messages, #values)
    call('DECRBY', consumed_bytes, bytes)
  end
end
live_like(bound, base, departed, departures, deliveries, consumed_messages, consumed_bytes)
restore_room(base, bound, prefetched, not_full, room)
hint_joiners(joiners, joined)
return {OK, #values}
