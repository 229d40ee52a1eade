#!lua flags=allow-oom
-- Close the queue for everybody, once and for good. The caller unblocks the waiters named.
-- KEYS  bound closed not_full room generation producer_free producer waiters paused resumed
-- ARGV  generation client
-- reply {OK, waiter...} | {CLOSED} | {ABSENT} | {AGAIN} | {IN_USE, holder}
local bound, closed, not_full, room, generation, producer_free, producer, waiters, paused,
  resumed = unpack(KEYS)
if call('EXISTS', bound) == 0 then return {ABSENT} end
if call('GET', generation) ~= ARGV[1] then return {AGAIN} end
if call('EXISTS', closed) == 1 then return {CLOSED} end
if call('LLEN', producer_free) == 0 then return {IN_USE, call('GET', producer) or ''} end
-- Two elements: a blocked 0.15 consumer pops one, the other keeps the queue closed.
call('LPUSH', closed, '1', '1')
call('SET', producer, ARGV[2])
signal(room)
signal(not_full)
live_like(bound, closed, producer, room, not_full)
if call('EXISTS', paused) == 1 then wake_paused(resumed) end
local reply = {OK}
for _, waiter in ipairs(call('HVALS', waiters)) do reply[#reply + 1] = waiter end
return reply
