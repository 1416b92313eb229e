# Shared by the capture scripts beside it: a private containerd, and an image without a registry.
# shellcheck shell=bash
# Callers set `bin` (containerd's programs) and `busybox` (a static one) and go on with `work`, `socket` and `version`.

PATH=$bin:$PATH
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
version=$(ctr --version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
work=$(mktemp -d)
socket=$work/c.sock
daemon=

# stop: containerd and all its files go away. Callers trap EXIT with it.
stop() {
  if [[ -n $daemon ]]; then
    kill "$daemon"
    wait "$daemon" || true
  fi
  rm -rf "$work"
}

# start: containerd with the configuration on stdin.
start() {
  local try
  cat >"$work/config.toml"
  containerd --config "$work/config.toml" >"$work/log" 2>&1 &
  daemon=$!
  for try in {1..100}; do
    ctr -a "$socket" version >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "containerd does not answer after $try tries:" >&2
  tail "$work/log" >&2
  return 1
}

# common_config: what every containerd here needs.
common_config() {
  printf 'version = 2\nroot = "%s/root"\nstate = "%s/state"\n[grpc]\naddress = "%s"\n' "$work" "$work" "$socket"
}

# image: golden/busybox:1 as $work/image.tar, and its tree in $work/image/layer.
image() {
  local layer=$work/image/layer sum
  mkdir -p "$layer/bin" "$layer/etc"
  cp "$busybox" "$layer/bin/busybox"
  ln -s busybox "$layer/bin/sleep"
  echo 'root:x:0:0::/:/bin/sh' >"$layer/etc/passwd"
  tar -C "$layer" -cf "$work/image/layer.tar" --owner=0 --group=0 bin etc
  sum=$(sha256sum <"$work/image/layer.tar" | cut -d' ' -f1)
  cat >"$work/image/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/sleep","60"]},
 "rootfs":{"type":"layers","diff_ids":["sha256:$sum"]}}
JSON
  echo '[{"Config":"config.json","RepoTags":["golden/busybox:1"],"Layers":["layer.tar"]}]' >"$work/image/manifest.json"
  tar -C "$work/image" -cf "$work/image.tar" config.json manifest.json layer.tar
}

# cni NAME...: plugins of these names that only say that all is done, in $work/cni/bin.
cni() {
  local name plugin=$work/cni/bin/all-is-done
  mkdir -p "$work/cni/bin" "$work/cni/net.d"
  cat >"$plugin" <<'PLUGIN'
#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'"$CNI_IFNAME"'","mac":"02:00:00:00:00:01","sandbox":"'"$CNI_NETNS"'"}],"ips":[{"address":"10.4.0.2/24","interface":0}]}' ;;
esac
PLUGIN
  chmod +x "$plugin"
  for name; do ln -s all-is-done "$work/cni/bin/$name"; done
}
