-- The members of a group and their types: a member announces '*' for all types, or a list of `type@version`, with '*'
-- in it if it also handles all types.

-- The consumer that holds handed-off entries: the first member that handles them claims them.
local ABSENT = 'absent'

-- Adds `type@version` to names, to versions, and to the newest version of each name.
local function add_type(announced, names, versions, newest)
  local name, version = string.match(announced, '^(.*)@(%d+)$')
  name, version = name or announced, tonumber(version or 0)
  names[name], versions[announced] = true, true
  newest[name] = math.max(newest[name] or 0, version)
end

-- Returns what a member announces: true if all types, the types, these with their versions, and the newest version of
-- each type.
local function announced_types(text)
  local is_json, types = pcall(cjson.decode, text or '')
  if not is_json then return false, {}, {}, {} end
  if type(types) ~= 'table' then return types == '*', {}, {}, {} end
  local names, versions, newest = {}, {}, {}
  for _, announced in ipairs(types) do add_type(announced, names, versions, newest) end
  return names['*'] == true, names, versions, newest
end

-- Returns what a group ever announced, as `announced_types`.
local function known_types(key)
  local names, versions, newest = {}, {}, {}
  for _, announced in ipairs(redis.call('HKEYS', key)) do add_type(announced, names, versions, newest) end
  return names['*'] == true, names, versions, newest
end

-- Returns true if a consumer of a group announces no types, as those of the Python library.
local function is_silent(name, announced)
  return not announced[name] and string.sub(name, 1, #ABSENT) ~= ABSENT and not string.match(name, '%-recovery$')
end

-- Returns the live members of a group that announce no types.
local function silent_members(stream, group, announced, live)
  local silent = {}
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local info = by_name(consumer)
    if is_silent(info.name, announced) and info.idle < live then silent[#silent + 1] = info.name end
  end
  return silent
end

-- Returns one of several names, by an entry's id.
local function one_of(names, id, salt)
  return names[1 + (tonumber(string.match(id, '^%d+')) + salt) % #names]
end

-- Returns attempts as JSON with an additional first field; its value is JSON too.
local function with_field(name, value, attempts)
  return '{"' .. name .. '":' .. value .. ',' .. string.sub(attempts, 2)
end
