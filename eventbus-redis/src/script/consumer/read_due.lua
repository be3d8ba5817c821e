-- Reads due entries again that are pending on the consumer, up to the entry that reaches a number of bytes. The attempts
-- of one that has waited lose the time of the retry: its handlers are about to run, so it must count as in flight if the
-- process ends. A suspect keeps it: the consumer saves its start before its handlers run, and that removes the time.
-- KEYS  stream, retry   ARGV  group, consumer, maximum number of bytes, then id, '1' if it has waited, ...
-- Replies {entries, their attempts as JSON or false, ids of deleted entries, ids that a different consumer has claimed
-- or finished, ids that a recreated group has yet to read, the number of ids up to the last entry}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, attempts, deleted, lost, unread, bytes, reached = {}, {}, {}, {}, {}, 0, 0
for i = 4, #ARGV, 2 do
  if bytes >= tonumber(ARGV[3]) then break end
  reached = reached + 1
  local id = ARGV[i]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then bytes = bytes + bytes_of(entry) end
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  elseif #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then
    local list = is_unread(stream, group, id) and unread or lost
    list[#list + 1] = id
  else
    local noted = redis.call('HGET', retry, id)
    if noted and ARGV[i + 1] == '1' and not string.find(noted, '"process_ends":[1-9]') then
      local begun, changed = string.gsub(noted, ',"next_at":%d+', '', 1)
      -- refused by a server out of memory: then the entry only counts as waiting
      if changed == 1 then redis.pcall('HSET', retry, id, begun) end
      noted = begun
    end
    entries[#entries + 1] = entry
    attempts[#attempts + 1] = noted
  end
end
return { entries, attempts, deleted, lost, unread, reached }
