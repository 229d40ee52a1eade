#!lua flags=allow-oom
-- Drop dead letters for good.
-- KEYS  bound dead_letters blobs
-- ARGV  raw tag... (none: all of them)
-- reply {OK, discarded} | {ABSENT}
local bound, dead_letters, blobs = unpack(KEYS)
local raw = ARGV[1] == '1'
if call('EXISTS', bound) == 0 then return {ABSENT} end
local wanted, all = {}, #ARGV == 1
for i = 2, #ARGV do wanted[ARGV[i]] = true end
local discarded = 0
for _, letter in ipairs(call('LRANGE', dead_letters, 0, -1)) do
  local value = buried_item(letter)
  if all or wanted[tag_of(value, raw)] then
    call('LREM', dead_letters, 1, letter)
    drop_blob(blobs, value, raw)
    discarded = discarded + 1
  end
end
return {OK, discarded}
