-- Reads entries again that wait on the consumer's own name, and whose turn has come. What has waited is about to be
-- handled: the time of its retry is taken out of its tries, so that it counts as in flight if the process ends.
-- KEYS stream, retry, relay   ARGV group, consumer, then id, '1' if it has waited, ...
-- Replies with {entries, their tries as JSON or false, ids of entries that were deleted, ids that another consumer has
-- claimed or finished, ids that the group is about to read again, as it was made anew}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, tries, deleted, lost, unread = {}, {}, {}, {}, {}
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  elseif #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then
    local list = is_unread(stream, group, id) and unread or lost
    list[#list + 1] = id
  else
    local noted = redis.call('HGET', retry, id)
    if noted and ARGV[i + 1] == '1' then
      local begun, changed = string.gsub(noted, ',"next_at":%d+', '', 1)
      -- refused by a server without memory: then it only counts as waiting
      if changed == 1 then redis.pcall('HSET', retry, id, begun) end
      noted = begun
    end
    entries[#entries + 1] = entry
    tries[#tries + 1] = noted
  end
end
note_removed(stream, KEYS[3], group, deleted)
return { entries, tries, deleted, lost, unread }
