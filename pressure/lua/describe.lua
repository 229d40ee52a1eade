#!lua
-- What a handle must know of a queue before it uses it. A queue made by a 0.15 client gets its
-- generation here.
-- KEYS  bound generation closed
-- ARGV  generation (to set if the queue has none)
-- reply {OK, bound, generation, closed} | {ABSENT}
local bound, generation, closed = unpack(KEYS)
local limit = call('GET', bound)
if not limit then return {ABSENT} end
call('SETNX', generation, ARGV[1])
return {OK, tonumber(limit), call('GET', generation), call('EXISTS', closed)}
