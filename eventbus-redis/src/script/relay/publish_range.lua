-- Publishes a range of a store's events, if all events before it were published, and none after.
--
-- KEYS  stream, relay
-- ARGV  store, epoch, the position before the range, that of its end, the event at the end or '-', then for each event
--       its position, the number of its names and values, and these
-- Replies {'published', ids ...}, {'moved', position}, {'fenced'} or {'lost'}.

local stream, relay, store = KEYS[1], KEYS[2], ARGV[1]
local epoch, position, through, last = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local events, next_one = {}, 6
while next_one <= #ARGV do
  local from, count = next_one + 2, tonumber(ARGV[next_one + 1])
  if not count or count < 2 or count % 2 ~= 0 or from + count - 1 > #ARGV then
    return redis.error_reply('ERR the range is incomplete')
  end
  events[#events + 1] = { position = ARGV[next_one], from = from, to = from + count - 1 }
  next_one = from + count
end

local record = read_record(redis.call('HGET', relay, store) or nil)
local is_empty = redis.call('XLEN', stream) == 0 -- fails if it is no stream
if not record then return { 'lost' } end
if is_smaller(epoch, record.epoch) then return { 'fenced' } end
if not is_there(stream, record.sentinel) then return { 'lost' } end
if record.position ~= position then return { 'moved', record.position } end
if #events == 0 and through == position then return { 'published' } end

local reply = { 'published' }
record.epoch, record.position, record.last = epoch, through, last
for _, event in ipairs(events) do
  local id = try_to_add(stream, unpack(ARGV, event.from, event.to))
  if id.err then
    if #reply == 1 then return id end
    local added = redis.call('XRANGE', stream, record.sentinel, record.sentinel)[1]
    record.position, record.last = position, by_name(added[2]).event_id
    write_record(redis.call, relay, store, record)
    remember()
    return { 'moved', position }
  end
  reply[#reply + 1], record.sentinel, position = id, id, event.position
end
write_record(redis.call, relay, store, record)
remember()
if is_empty and reply[2] then redis.call('HSET', relay, 'head', reply[2]) end
return reply
