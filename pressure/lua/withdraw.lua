#!lua flags=allow-oom
-- Take items out of the queue that nobody has taken yet. A repeat of a producer's last number is
-- answered with what that number did; a lower one comes late, and does nothing.
-- KEYS  base bound not_full room prefetched joiners joined blobs producers
-- ARGV  producer sequence raw tag...
-- reply {OK, "1" | "0"...} (a digit per tag, in one string: withdrawn or not there) | {ABSENT}
local base, bound, not_full, room, prefetched, joiners, joined, blobs, producers = unpack(KEYS)
local producer_id, sequence, raw = ARGV[1], ARGV[2], ARGV[3] == '1'
local FIRST = 4

if call('EXISTS', bound) == 0 then return {ABSENT} end
local number, answer = string.match(call('HGET', producers, producer_id) or '', '^(%d+):(%d+)')
if number == sequence then return {OK, answer} end
local wanted, left, found = {}, #ARGV - FIRST + 1, {}
for i = FIRST, #ARGV do
  wanted[ARGV[i]] = i - FIRST + 1
  found[i - FIRST + 1] = '0'
end
if tonumber(number or 0) > tonumber(sequence) then return {OK, table.concat(found)} end
-- From the newest end: what is withdrawn was mostly put a moment ago.
local from = 0
while left > 0 do
  local values = call('LRANGE', base, from, from + SLICE - 1)
  if #values == 0 then break end
  local removed = 0
  for _, value in ipairs(values) do
    local at = wanted[tag_of(value, raw)]
    if at and found[at] == '0' then
      call('LREM', base, 1, value)
      drop_blob(blobs, value, raw)
      found[at] = '1'
      left = left - 1
      removed = removed + 1
    end
  end
  from = from + #values - removed
end
answer = table.concat(found)
call('HSET', producers, producer_id, sequence .. ':' .. answer .. ':' .. string.format('%d', now_ms()))
live_like(bound, producers)
restore_room(base, bound, prefetched, not_full, room)
hint_joiners(joiners, joined)
return {OK, answer}
