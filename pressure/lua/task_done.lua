#!lua flags=allow-oom
-- Count one fetched item as finished: one of the caller's own if there is one, else anybody's. A
-- repeat of a producer's last number is answered without counting again.
-- KEYS  base bound fetched joiners joined producers
-- ARGV  producer sequence consumer...
-- reply {OK} | {EMPTY} (nothing is unfinished) | {ABSENT}
local base, bound, fetched, joiners, joined, producers = unpack(KEYS)
local producer_id, sequence = ARGV[1], ARGV[2]
if call('EXISTS', bound) == 0 then return {ABSENT} end
local last = string.match(call('HGET', producers, producer_id) or '', '^%d+')
if tonumber(last or 0) >= tonumber(sequence) then return {OK} end
local total = 0
for _, count in ipairs(call('HVALS', fetched)) do total = total + count end
if total <= 0 then return {EMPTY} end
local whose = '*'
for _, id in ipairs(slice(3, #ARGV)) do
  if tonumber(call('HGET', fetched, id) or 0) > 0 then
    whose = id
    break
  end
end
if call('HINCRBY', fetched, whose, -1) == 0 then call('HDEL', fetched, whose) end
call('HSET', producers, producer_id, sequence .. ':1:' .. string.format('%d', now_ms()))
live_like(bound, fetched, producers)
if total == 1 and call('LLEN', base) == 0 then hint_joiners(joiners, joined) end
return {OK}
