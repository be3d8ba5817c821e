-- Copies entries of one type that a group skipped into its backlog.
-- KEYS  stream, fills, backlog   ARGV  group, event type, number of entries to check, and of their bytes
-- Replies 1 if there may be more.
local stream, fills, backlog, group, name = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local field = 'copy ' .. group .. '\n' .. name
local next_one, last = string.match(redis.call('HGET', fills, field) or '', '^(%S+) (%S+)$')
if not next_one then return 0 end
if is_full(backlog, group) then return 0 end
local foreign = 'foreign ' .. group .. '\n' .. name
local is_foreign = redis.call('HEXISTS', fills, foreign) == 1
local entries, more = read_page('XRANGE', { stream }, next_one, last, tonumber(ARGV[3]), tonumber(ARGV[4]))
for _, entry in ipairs(entries) do
  local fields = by_name(entry[2])
  local is_wanted = fields.event_type == name and not fields.replay_group and not (is_foreign and fields.store)
  -- a pending one was not skipped: its member will hand it off to one that handles it
  if is_wanted and #redis.call('XPENDING', stream, group, entry[1], entry[1], 1) == 0 then
    add_to_backlog(backlog, group, unpack(entry[2]))
  end
end
if more == 0 then
  redis.call('HDEL', fills, field, foreign)
  return 0
end
redis.call('HSET', fills, field, after(entries[#entries][1]) .. ' ' .. last)
return 1
