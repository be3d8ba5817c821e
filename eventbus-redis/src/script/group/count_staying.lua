-- Counts the entries that stay pending, of a page of a group's pending entries.
-- KEYS  stream, retry records
-- ARGV  group, the id to begin with, number of entries to check, '1' to count those alone that used up their attempts
-- Replies {the id to continue after or '', the number}.
local stream, retry, group, count = KEYS[1], KEYS[2], ARGV[1], 0
-- each entry that stays pending has a record
if redis.call('HLEN', retry) == 0 or not groups_of(stream)[group] then return { '', 0 } end
local is_counted = ARGV[4] == '1' and is_exhausted or stays
local pending = redis.call('XPENDING', stream, group, ARGV[2], '+', ARGV[3])
for _, found in ipairs(pending) do
  if is_counted(redis.call('HGET', retry, found[1])) then count = count + 1 end
end
return { #pending < tonumber(ARGV[3]) and '' or '(' .. pending[#pending][1], count }
