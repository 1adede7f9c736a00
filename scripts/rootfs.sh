#!/bin/sh
# Makes the demo's root file system from busybox-static: rootfs.sh OUT.tar
#
# It serves one page over HTTP that says which component it is. The same busybox gives the same bytes.
set -eu

[ $# = 1 ] || { echo "usage: rootfs.sh OUT.tar" >&2; exit 2; }
out=$1
busybox=$(command -v busybox || echo /bin/busybox)
[ -x "$busybox" ] || { echo "there is no busybox: apt-get install busybox-static" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/proc" "$root/sys" "$root/dev" "$root/www/cgi-bin"
cp "$busybox" "$root/bin/busybox"
for applet in sh ls cat echo hostname httpd sleep ps wget dd head date env nc kill; do
    ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"

cat >"$root/www/cgi-bin/index.cgi" <<'PAGE'
#!/bin/sh
printf 'Content-Type: text/plain; charset=utf-8\r\n\r\n'
printf '%s\n' "${GREETING:-Hello} from ${YIQIU_NODE_NAME:-$(hostname)}, up since $(cat /tmp/started)"
PAGE
cat >"$root/bin/serve" <<'SERVE'
#!/bin/sh
# Serves /www on the port in $PORT (8080).
date -u '+%Y-%m-%d %H:%M:%SZ' >/tmp/started
exec httpd -f -p "${PORT:-8080}" -h /www
SERVE
chmod 755 "$root/bin/busybox" "$root/bin/serve" "$root/www/cgi-bin/index.cgi"

mkdir -p "$(dirname "$out")"
tar --create --file "$out.part" --directory "$root" --sort=name --mtime='2020-01-01 00:00:00Z' \
    --owner=0 --group=0 --numeric-owner --format=ustar .
mv "$out.part" "$out"
