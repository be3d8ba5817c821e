-- Publishes a range of a store's events, if all events before it were published, and none after.
--
-- A store's record is `position event entry`: the position up to which it is published, the id of the event there, and
-- that of its entry, both `-` if the position is that of a skipped event or was set by a relay that began. Record and
-- entries are in one script, so that Redis keeps both or loses both.
--
-- KEYS  stream, relay
-- ARGV  store, the position and event before the range, those of its end, then for each event its position and id, the
--       number of its names and values, and these
-- Replies {'published', ids ...}, {'moved', the record} or {'none'} if there is no record.
local stream, relay, store = KEYS[1], KEYS[2], ARGV[1]
local record = redis.call('HGET', relay, store)
if not record then return { 'none' } end
local before = ARGV[2] .. ' '
if string.sub(record, 1, #before) ~= before then return { 'moved', record } end

local reply, at, entry, i = { 'published' }, ARGV[2], string.sub(record, #before + 1), 4
while i <= #ARGV do
  local count = tonumber(ARGV[i + 1])
  local id = redis.pcall('XADD', stream, '*', unpack(ARGV, i + 2, i + 1 + count))
  if id.err then
    if #reply == 1 then return id end
    record = at .. ' ' .. entry
    redis.call('HSET', relay, store, record)
    return { 'moved', record }
  end
  reply[#reply + 1], entry, at = id, id, ARGV[i]
  i = i + 2 + count
end
redis.call('HSET', relay, store, ARGV[3] .. ' ' .. entry)
return reply
