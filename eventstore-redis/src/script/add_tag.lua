-- Adds a tag to a stored event, in a note of its own: the entries of streams do not change.
-- KEYS  the event's stream; the tags that stored events were given later; the counts of the tag; the positions of its
--       events, in one set or two. A key of counts ends with its tag: the script makes those of the event's other tags, in
--       the same slot, from that of the tag.
-- ARGV  version, event id, tag, the most tags of an event
-- Reply: `added`; or the reason why the script wrote no key: `known`, `missing` or `full`
local version, event_id, tag, most = take(), take(), take(), tonumber(take())
local entry = redis.call('XRANGE', KEYS[1], version .. '-0', version .. '-0')[1]
if not entry then return 'missing' end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
local position, type_name = fields.position, fields.type
if fields.event_id ~= event_id or not position or not type_name then return 'missing' end

local function decode(text)
  local is_json, list = pcall(cjson.decode, text or '[]')
  return is_json and type(list) == 'table' and list
end

local function read_count(key, name)
  local count = redis.call('HGET', key, name)
  return not count or string.match(count, '^%d+$')
end

local own, added = decode(fields.tags), decode(redis.call('HGET', KEYS[2], position))
if not own or not added then return redis.error_reply('ERR the tags of event ' .. event_id .. ' are no list') end
local others = {}
for _, list in ipairs({ own, added }) do
  for _, found in ipairs(list) do
    if found == tag then return 'known' end
    others[#others + 1] = string.sub(KEYS[3], 1, #KEYS[3] - #tag) .. found
  end
end
if #others >= most then return 'full' end
-- before the first write: the keys are what they must be, and the user has all rights
local are_counts = read_count(KEYS[3], type_name)
for _, key in ipairs(others) do are_counts = are_counts and read_count(key, '') end
if not are_counts then return redis.error_reply('ERR the count of a tag is no number') end
for i = 4, #KEYS do redis.call('ZSCORE', KEYS[i], position) end
local refused = missing_right(KEYS[3], 'HSET', 'HINCRBY', 'ZADD')
if refused then return redis.error_reply(refused) end
added[#added + 1] = tag
redis.call('HSET', KEYS[2], position, cjson.encode(added))
redis.call('HINCRBY', KEYS[3], type_name, 1)
-- the event may now belong to a boundary of several tags
for _, key in ipairs(others) do redis.call('HINCRBY', key, '', 1) end
for i = 4, #KEYS do redis.call('ZADD', KEYS[i], position, position) end
return 'added'
