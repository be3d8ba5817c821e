-- Searches a page of entries for the first one with a higher position.
--
-- KEYS  stream
-- ARGV  the id after which the page begins, position, number of entries to check, and of their bytes
-- Replies {0, the id just before the entry}; {1, the end of the page} to continue; or {0, the end of the stream} if
-- there is no such entry.

local entries = read_page('XRANGE', KEYS[1], '(' .. ARGV[1], '+', tonumber(ARGV[3]), tonumber(ARGV[4]))
if #entries == 0 then return {0, ARGV[1]} end
for _, entry in ipairs(entries) do
  local value = by_name(entry[2]).position
  local position = value and string.match(value, '^0*(%d+)$')
  if position and is_smaller(ARGV[2], position) then return {0, before(entry[1])} end
end
return {1, entries[#entries][1]}
