# Ends the server of a run folder once none of its clients is alive. Arguments: FOLDER GRACE_SECONDS.
# Invariant: this script moves the notice away before it looks for clients; a client registers before it reads that.
# Invariant: this script removes the folder of clients before it looks for the server; a server writes its process id
# before it looks for the folder of clients.

folder=$1 grace=$2
trap '' INT HUP TERM

# A zombie counts as dead: its parent may reap it late, or never.
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

# Returns once no client was alive for GRACE_SECONDS. Ends the script if the folder is gone.
wait_until_unused() {
  idle=0
  while [ "$idle" -lt "$grace" ]; do
    sleep 1
    [ -d "$folder" ] || exit 0
    : >"$folder/beat"
    if any_client; then idle=0; else idle=$((idle + 1)); fi
  done
}

# Sets $pid. After a reboot a different process may have the number: the server alone has the port in its command line.
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

# Tries again: an initdb whose starter was killed writes files until it misses some.
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
