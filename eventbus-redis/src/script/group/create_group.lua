-- Creates a group, and its stream if it is missing, unless the group exists. Records the format of the bus, too, if the
-- server has lost it together with the group.
-- KEYS  stream, the bus's `meta`; a plain stream has none
-- ARGV  group, the id after which it begins, or '$' for the newest; the format that this release writes, the lowest
--       format that its readers must know
-- Replies 1 if it was created.
-- first, as a server out of memory refuses to create a group, though it exists
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if not groups.err then
  for _, group in ipairs(groups) do
    if group[2] == ARGV[1] then return 0 end
  end
end
local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if created.err then
  if string.find(created.err, 'BUSYGROUP', 1, true) then return 0 end
  return created
end
if KEYS[2] then record_format(KEYS[2], ARGV[3], ARGV[4]) end
return 1
