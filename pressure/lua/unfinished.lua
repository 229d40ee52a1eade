#!lua flags=allow-oom
-- Count what is not finished: queued, held by a consumer, or fetched and not done.
-- KEYS  base bound fetched leases departed joiners joined taken...
-- ARGV  wait_ms (how long the caller will wait for a hint; 0: it only asks) consumer... (whose taken lists are given)
-- reply {OK, unfinished} | {AGAIN, consumer...} (call again with the taken lists of these) | {ABSENT}
local base, bound, fetched, leases, departed, joiners, joined = unpack(KEYS)
local FIXED = 7
local wait_ms = tonumber(ARGV[1])

if call('EXISTS', bound) == 0 then return {ABSENT} end
local present = 0
for i = 2, #ARGV do
  if call('ZSCORE', leases, ARGV[i]) or call('ZSCORE', departed, ARGV[i]) then present = present + 1 end
end
if call('ZCARD', leases) + call('ZCARD', departed) > present then
  local reply = {AGAIN}
  for _, set in ipairs({leases, departed}) do
    for _, consumer in ipairs(call('ZRANGE', set, 0, -1)) do reply[#reply + 1] = consumer end
  end
  return reply
end
local total = call('LLEN', base)
for i = FIXED + 1, #KEYS do total = total + call('LLEN', KEYS[i]) end
for _, count in ipairs(call('HVALS', fetched)) do total = total + count end
total = math.max(total, 0)
if total == 0 then
  -- Whoever else waits is woken in turn.
  hint_joiners(joiners, joined)
elseif wait_ms > 0 then
  call('DEL', joined)
  call('SET', joiners, '1', 'PX', wait_ms)
end
return {OK, total}
