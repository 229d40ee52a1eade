#!lua
-- Move dead letters back to the newest end of the queue, with their deliveries forgotten.
-- KEYS  base bound closed dead_letters not_full room prefetched deliveries
-- ARGV  raw tag... (none: all of them)
-- reply {OK, replayed} | {CLOSED} | {ABSENT}
local base, bound, closed, dead_letters, not_full, room, prefetched, deliveries = unpack(KEYS)
local raw = ARGV[1] == '1'
if call('EXISTS', bound) == 0 then return {ABSENT} end
if call('EXISTS', closed) == 1 then return {CLOSED} end
local wanted, all = {}, #ARGV == 1
for i = 2, #ARGV do wanted[ARGV[i]] = true end
local replayed = 0
local letters = call('LRANGE', dead_letters, 0, -1)
for i = #letters, 1, -1 do
  local value = buried_item(letters[i])
  local tag = tag_of(value, raw)
  if all or wanted[tag] then
    call('LREM', dead_letters, -1, letters[i])
    if raw then
      call('HDEL', deliveries, tag)
    elseif #value >= BODY - 1 then
      value = string.sub(value, 1, DELIVERIES - 1) .. '\0\0' .. string.sub(value, DELIVERIES + 2)
    end
    call('LPUSH', base, value)
    if not raw then count_behind(prefetched, behind(value)) end
    replayed = replayed + 1
  end
end
live_like(bound, base, prefetched)
restore_room(base, bound, prefetched, not_full, room)
return {OK, replayed}
