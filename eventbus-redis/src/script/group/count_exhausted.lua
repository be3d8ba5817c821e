-- Counts the entries that used up their attempts and stay pending, of a page of a group's pending entries.
-- KEYS  stream, retry records   ARGV  group, the id to begin with, number of entries to check
-- Replies {the id to continue after or '', the number}.
local stream, retry, group, count = KEYS[1], KEYS[2], ARGV[1], 0
-- each such entry has a record
if redis.call('HLEN', retry) == 0 or not groups_of(stream)[group] then return { '', 0 } end
local pending = redis.call('XPENDING', stream, group, ARGV[2], '+', ARGV[3])
for _, found in ipairs(pending) do
  local attempts = redis.call('HGET', retry, found[1])
  if attempts and string.find(attempts, '"is_exhausted":true', 1, true) then count = count + 1 end
end
return { #pending < tonumber(ARGV[3]) and '' or '(' .. pending[#pending][1], count }
