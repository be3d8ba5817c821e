# Ends the server of a run folder once none of its clients is alive. Arguments: FOLDER GRACE_SECONDS.
# Keep: the notice is moved away first, then clients are looked for; clients register first, then look for the notice.
# The same once more with the server: the clients' folder goes first, then the server is looked for; a server leaves
# its process id first, then looks for the clients' folder.

folder=$1 grace=$2
trap '' INT HUP TERM

# A zombie counts as dead: whoever should reap it may take long, or never do it.
alive() {
  kill -0 "$1" || return 1
  if [ -r "/proc/$1/stat" ]; then
    read -r state <"/proc/$1/stat" || return 1
    state=${state##*) }
  else
    state=$(ps -o stat= -p "$1")
  fi
  case $state in '' | Z* | X*) return 1 ;; esac
}

any_client() {
  found=1
  for file in "$folder"/clients/*; do
    [ -e "$file" ] || continue
    if alive "${file##*/}"; then found=0; else rm -f "$file"; fi
  done
  return $found
}

# Returns once nobody was there for the time of grace; a folder that is gone needs no supervisor.
wait_until_unused() {
  idle=0
  while [ "$idle" -lt "$grace" ]; do
    sleep 1
    [ -d "$folder" ] || exit 0
    : >"$folder/beat"
    if any_client; then idle=0; else idle=$((idle + 1)); fi
  done
}

# Sets $pid. The number may be left from before a reboot and be anybody's now: a server shows its port.
find_server() {
  read -r port <"$folder/port" || return 1
  read -r pid <"$folder/data/server.pid" && alive "$pid" || return 1
  if [ -r "/proc/$pid/cmdline" ]; then
    shown=$(tr '\0' ' ' <"/proc/$pid/cmdline")
  else
    shown=$(ps -o args= -p "$pid")
  fi
  case $shown in *"$port"*) return 0 ;; esac
  return 1
}

stop_server() {
  for signal in INT QUIT KILL; do
    find_server || return
    kill -"$signal" "$pid"
    kill -CONT "$pid" # it may be paused
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
      alive "$pid" || return
      sleep 0.2
    done
  done
}

# Looks again: an initdb whose starter was killed goes on writing until it misses its files.
remove_folder() {
  tries=0
  while [ -d "$folder" ] && [ "$tries" -lt 30 ]; do
    rm -rf "$folder"
    tries=$((tries + 1))
    sleep 1
  done
}

while :; do
  wait_until_unused
  mv "$folder/ready" "$folder/stopping"
  any_client || break
  mv "$folder/stopping" "$folder/ready"
done
rm -rf "$folder/clients"
stop_server
remove_folder
