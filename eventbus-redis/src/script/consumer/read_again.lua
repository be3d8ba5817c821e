-- Reads entries again that are pending on the consumer, up to the entry that reaches a number of bytes. This counts as no
-- delivery.
--
-- Handlers of due entries are about to run: their attempts lose the time of the retry, so that they count as in flight if
-- the process ends, and those of a suspect get the number that counts this run.
--
-- KEYS  stream, retry
-- ARGV  group, consumer, maximum number of bytes, then id, and '' if it is due, the `ended_alone` of a suspect that is due,
--       or 'keep' to change no attempts and to renew the claim, ...
-- Replies {entries, their attempts as JSON or false, ids of deleted entries, ids that a different consumer has claimed
-- or finished, ids to be read later: a recreated group has yet to read them, or a server out of memory refuses to count
-- the run; the number of ids up to the last entry}.
local stream, retry, group, me = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local entries, attempts, deleted, lost, later, bytes, reached = {}, {}, {}, {}, {}, 0, 0

-- Returns the attempts of a due entry from now on, and whether the server has saved them.
local function begin(id, noted, ended_alone)
  local begun = string.gsub(noted, ',"next_at":%d+', '', 1)
  if ended_alone ~= '' then
    begun = string.gsub(begun, ',"ended_alone":%d+', '', 1)
    begun = string.gsub(begun, '"process_ends":%d+', '%0,"ended_alone":' .. ended_alone, 1)
  end
  return begun, begun == noted or type(redis.pcall('HSET', retry, id, begun)) == 'number'
end

for i = 4, #ARGV, 2 do
  if bytes >= tonumber(ARGV[3]) then break end
  reached = reached + 1
  local id, what = ARGV[i], ARGV[i + 1]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if entry then bytes = bytes + bytes_of(entry) end
  if not entry then
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', retry, id)
    deleted[#deleted + 1] = id
  elseif #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then
    local list = is_unread(stream, group, id) and later or lost
    list[#list + 1] = id
  else
    local noted, is_saved = redis.call('HGET', retry, id), true
    if what == 'keep' then
      redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
    elseif noted then
      noted, is_saved = begin(id, noted, what)
    end
    -- an entry that is no suspect then only counts as waiting
    if is_saved or what == '' then
      entries[#entries + 1] = entry
      attempts[#attempts + 1] = noted
    else
      later[#later + 1] = id
    end
  end
end
return { entries, attempts, deleted, lost, later, reached }
