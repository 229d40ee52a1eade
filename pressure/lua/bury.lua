#!lua flags=allow-oom
-- Move items that nobody can use from the consumer's taken list to the dead letters.
-- KEYS  base leases taken dead_letters joiners joined
-- ARGV  consumer raw reason (JSON) tag...
-- reply {OK, buried} | {LOST}
local base, leases, taken, dead_letters, joiners, joined = unpack(KEYS)
local id, raw, reason = ARGV[1], ARGV[2] == '1', ARGV[3]

if not call('ZSCORE', leases, id) then return {LOST} end
local buried = 0
for _, value in ipairs(remove(taken, slice(4, #ARGV), raw)) do
  if value then
    bury(dead_letters, value, reason)
    buried = buried + 1
  end
end
if call('LLEN', base) == 0 then hint_joiners(joiners, joined) end
return {OK, buried}
