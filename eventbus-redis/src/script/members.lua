-- The members of a group and what they handle: a member announces '*' for everything, or a list of `type@version`, with
-- '*' among them if it handles everything, and some types in versions.

-- The consumer that holds entries which were left: the first member takes them that handles them.
local ABSENT = 'absent'

local function announced_types(text)
  local is_json, types = pcall(cjson.decode, text or '')
  if not is_json then return false, {}, {} end
  if type(types) ~= 'table' then return types == '*', {}, {} end
  local names, versions = {}, {}
  for _, name in ipairs(types) do
    names[string.match(name, '^(.*)@%d+$') or name], versions[name] = true, true
  end
  return names['*'] == true, names, versions
end

-- What a group ever announced: whether everything, the types, and these with their versions.
local function known_types(key)
  local names, versions = {}, {}
  for _, name in ipairs(redis.call('HKEYS', key)) do
    names[string.match(name, '^(.*)@%d+$') or name], versions[name] = true, true
  end
  return names['*'] == true, names, versions
end

-- Whether a consumer of a group is none of ours.
local function is_silent(name, announced)
  return not announced[name] and string.sub(name, 1, #ABSENT) ~= ABSENT and not string.match(name, '%-recovery$')
end

-- The live members of a group that announce nothing, as those of the Python library.
local function silent_members(stream, group, announced, live)
  local silent = {}
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local info = by_name(consumer)
    if is_silent(info.name, announced) and info.idle < live then silent[#silent + 1] = info.name end
  end
  return silent
end

-- One of several, by an entry's id.
local function one_of(names, id, salt)
  return names[1 + (tonumber(string.match(id, '^%d+')) + salt) % #names]
end

-- Tries as JSON, with a field in front of theirs; its value is JSON too.
local function with_field(name, value, tries)
  return '{"' .. name .. '":' .. value .. ',' .. string.sub(tries, 2)
end
