"""Dockerfiles of the kinds that people write, with their files and what their images do.

``BASE`` is a small image with busybox, ``DEBIAN`` a small Debian. Nothing here needs a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Sample(NamedTuple):
    """One Dockerfile. ``says`` is the output of its image."""

    name: str
    text: str
    says: str
    files: Mapping[str, str] = MappingProxyType({})
    flags: tuple[str, ...] = ()
    debian: bool = False
    runs: bool = True


SAMPLES = [
    Sample("python-app", """FROM BASE
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements.txt .
RUN sort requirements.txt > installed.txt
COPY . .
EXPOSE 8000
USER 1000:1000
CMD ["cat", "installed.txt", "main.py"]
""", "aiohttp\nflask\nprint(1)\n",
           {"requirements.txt": "flask\naiohttp\n", "main.py": "print(1)\n"}),
    Sample("node-app", """FROM BASE
WORKDIR /usr/src/app
COPY package*.json ./
RUN mkdir -p node_modules/left-pad && cp package.json node_modules/left-pad/
COPY . .
RUN chown -R 1000:1000 /usr/src/app
USER 1000
ENTRYPOINT ["ls"]
CMD ["-1"]
""", "Dockerfile\nindex.js\nnode_modules\npackage-lock.json\npackage.json\n",
           {"package.json": "{}", "package-lock.json": "{}", "index.js": ""}),
    Sample("static-to-scratch", """FROM BASE AS build
COPY main.sh /src/main.sh
RUN cp /bin/busybox /out && chmod 0755 /out
FROM scratch
COPY --from=build /out /bin/busybox
COPY --from=build /src/main.sh /etc/main.sh
ENTRYPOINT ["/bin/busybox"]
CMD ["cat", "/etc/main.sh"]
""", "echo hi\n", {"main.sh": "echo hi\n"}),
    Sample("three-stages", """FROM BASE AS base
RUN echo base > /a
FROM base AS test
RUN echo never-needed && exit 1
FROM base AS build
RUN cat /a > /b && echo build >> /b
FROM base
COPY --from=build /b /b
CMD cat /a /b
""", "base\nbase\nbuild\n"),
    Sample("link-onto-directories", """FROM BASE
RUN mkdir -p /have/in && chmod 711 /have && chown 5:6 /have
COPY --link --chown=7:8 d /have/in
COPY --link --chown=7:8 d /new/deep
COPY --chown=7:8 --chmod=700 d/f /moded/deep/
COPY --link --chown=7:8 --chmod=751 d /have/x
WORKDIR /w/x
COPY --link --chown=7 d .
CMD stat -c '%n %u:%g %a' /have /have/in /have/in/f /have/x /new /moded /w /w/x/f
""", """/have 5:6 711
/have/in 0:0 755
/have/in/f 7:8 644
/have/x 7:8 751
/new 7:8 755
/moded 7:8 700
/w 0:0 755
/w/x/f 7:7 644
""", {"d/f": "f\n", "d/sub/g": "g\n"}),
    Sample("target-stage", """FROM BASE AS one
CMD echo one
FROM one AS two
CMD echo two
FROM two
CMD echo three
""", "two\n", {}, ("--target", "two")),
    Sample("yum-style-continuation", r"""FROM BASE
RUN set -ex; \
    # tools that are only needed here
    mkdir -p /opt/tool; \
    echo one \
         two \

         three > /opt/tool/list; \
    rm -rf /tmp/* ; \
    true
CMD cat /opt/tool/list
""", "one two three\n"),
    Sample("timezone", """FROM BASE
ENV TZ=Europe/Berlin
RUN mkdir -p /usr/share/zoneinfo/Europe && echo TZif > /usr/share/zoneinfo/$TZ \\
 && ln -snf /usr/share/zoneinfo/$TZ /etc/localtime && echo $TZ > /etc/timezone
CMD cat /etc/timezone /etc/localtime
""", "Europe/Berlin\nTZif\n"),
    Sample("mirrors", r"""FROM BASE
ARG MIRROR=https://mirror.example/debian
RUN mkdir -p /etc/apt \
 && echo "deb http://deb.debian.org/debian stable main" > /etc/apt/sources.list \
 && sed -i "s@http://deb.debian.org/debian@${MIRROR}@g" /etc/apt/sources.list
CMD cat /etc/apt/sources.list
""", "deb https://m.example/d stable main\n", {}, ("--build-arg", "MIRROR=https://m.example/d")),
    Sample("heredoc-script", """FROM BASE
RUN <<EOF
set -e
echo first > /out
for i in 1 2; do echo $i >> /out; done
EOF
CMD ["cat", "/out"]
""", "first\n1\n2\n"),
    Sample("heredoc-files", """FROM BASE
ARG WHO=world
COPY <<one.txt <<"two.txt" /etc/app/
hello $WHO
one.txt
hello $WHO
two.txt
CMD cat /etc/app/one.txt /etc/app/two.txt
""", "hello world\nhello $WHO\n"),
    Sample("healthcheck", """FROM BASE
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=4 CMD true || exit 1
CMD ["echo", "healthy"]
""", "healthy\n"),
    Sample("healthcheck-none", "FROM BASE\nHEALTHCHECK NONE\nCMD [\"true\"]\n", ""),
    Sample("labels", """FROM BASE
LABEL org.opencontainers.image.title="A title" \\
      org.opencontainers.image.source=https://example.com multi="a b" empty=
LABEL quoted="say \\"hi\\""
CMD ["true"]
""", ""),
    Sample("legacy-env", """FROM BASE
ENV NAME a  value with spaces
ENV OTHER=$NAME
CMD echo "$OTHER"
""", "a  value with spaces\n"),
    Sample("env-expansion", """FROM BASE
ENV A=abc.tar.gz
ENV B=${A%.gz} C=${A%%.*} D=${A#*.} E=${X:-dflt} F=${A:+set} G=${A/abc/xyz} H=\\$A
CMD echo $B $C $D $E $F $G "$H"
""", "abc.tar abc tar.gz dflt set xyz.tar.gz $A\n"),
    Sample("args-before-from", """ARG TAG=nothing
ARG IMAGE=BASE
FROM ${IMAGE}
ARG TAG
ARG PLAIN
ENV GOT=${TAG}-${PLAIN:-none}
CMD echo $GOT
""", "v7-none\n", {}, ("--build-arg", "TAG=v7")),
    Sample("platform-args", """FROM BASE
ARG TARGETOS
ARG TARGETARCH
RUN echo $TARGETOS/$TARGETARCH > /p
CMD cat /p
""", "linux/HOST_ARCH\n"),
    Sample("cron", """FROM BASE
RUN mkdir -p /var/spool/cron/crontabs \\
 && echo '*/5 * * * * echo tick' > /var/spool/cron/crontabs/root
RUN chmod 0600 /var/spool/cron/crontabs/root
CMD ["cat", "/var/spool/cron/crontabs/root"]
""", "*/5 * * * * echo tick\n"),
    Sample("static-site", """FROM BASE
WORKDIR /var/www
COPY site/ .
EXPOSE 80
CMD ["cat", "index.html", "css/a.css"]
""", "<p>hi</p>\na{}\n", {"site/index.html": "<p>hi</p>\n", "site/css/a.css": "a{}\n"}),
    Sample("official-web-server", r"""FROM BASE
LABEL maintainer="Maintainers <maint@example.com>"
ENV SERVER_VERSION   1.27.0
ENV PKG_RELEASE     1~bookworm
RUN set -x \
    && mkdir -p /var/cache/web /etc \
    && echo 'web:x:101:' >> /etc/group \
    && echo 'web:x:101:101:web:/var/cache/web:/sbin/nologin' >> /etc/passwd \
    && mkdir -p /var/log/web /docker-entrypoint.d \
    && ln -sf /dev/stdout /var/log/web/access.log \
    && ln -sf /dev/stderr /var/log/web/error.log
COPY docker-entrypoint.sh /
COPY --chmod=755 10-listen.sh /docker-entrypoint.d
ENTRYPOINT ["/bin/sh", "/docker-entrypoint.sh"]
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["echo", "web", "-g", "daemon off;"]
""", "listen\nweb -g daemon off;\n",
           {"docker-entrypoint.sh": "for f in /docker-entrypoint.d/*; do $f; done\nexec \"$@\"\n",
            "10-listen.sh": "#!/bin/sh\necho listen\n"}),
    Sample("official-data-store", r"""FROM BASE
RUN set -eux; echo 'store:x:999:' >> /etc/group; \
    echo 'store:x:999:999::/data:/bin/sh' >> /etc/passwd
RUN mkdir /data && chown store:store /data
VOLUME /data
WORKDIR /data
COPY entry.sh /usr/local/bin/
ENTRYPOINT ["sh", "/usr/local/bin/entry.sh"]
EXPOSE 6379
CMD ["store-server"]
""", "store-server 0\n", {"entry.sh": "echo $1 $(ls | wc -l)\n"}),
    Sample("volume-with-content", """FROM BASE
RUN mkdir /v && echo in > /v/f
VOLUME ["/v", "/w"]
CMD cat /v/f
""", "in\n"),
    Sample("onbuild", """FROM BASE
ONBUILD COPY . /src
ONBUILD RUN ls /src > /list
CMD ["echo", "parent"]
""", "parent\n"),
    Sample("shells", """FROM BASE
SHELL ["/bin/sh", "-euc"]
RUN echo "$0" > /a; test -n "$PATH"
SHELL ["/bin/busybox", "sh", "-c"]
RUN echo second >> /a
CMD cat /a
""", "/bin/sh\nsecond\n"),
    Sample("users", """FROM BASE
RUN echo 'app:x:1234:' >> /etc/group && echo 'app:x:1234:1234::/home/app:/bin/sh' >> /etc/passwd \\
 && mkdir -p /home/app/d && chown app:app /home/app/d
USER app
WORKDIR /home/app/d
RUN id -u > who && touch mine
COPY --chown=app:app f .
CMD ["sh", "-c", "cat who; stat -c '%u:%g %a' f mine"]
""", "1234\n1234:1234 644\n1234:1234 644\n", {"f": "x"}),
    Sample("modes-and-links", """FROM BASE
RUN mkdir -m 1777 /sticky && mkdir /setgid && chmod 2755 /setgid && touch /suid \\
 && chmod 4755 /suid && ln /suid /hard && ln -s ../suid /sticky/soft && ln -s /nowhere /dangling \\
 && mkfifo /pipe
CMD stat -c '%a' /sticky /setgid /hard /pipe
""", "1777\n2755\n4755\n644\n"),
    Sample("removals", """FROM BASE
RUN mkdir -p /d/sub && touch /d/a /d/b /d/sub/c
RUN rm -r /d/sub /d/a
RUN rm -r /d && mkdir /d && touch /d/new
CMD ls /d
""", "new\n"),
    Sample("wildcards", """FROM BASE
COPY *.txt conf/*.cfg /w/
COPY [ "name with space", "/w/" ]
CMD ls -1 /w
""", "a.txt\nb.txt\nname with space\nx.cfg\n",
           {"a.txt": "", "b.txt": "", "c.md": "", "conf/x.cfg": "", "name with space": ""}),
    Sample("ignore-notes", """FROM BASE
COPY . /c
RUN cd /c && find . -type f | sort > /list
CMD cat /list
""", "./Dockerfile\n./README.md\n./sub/x.md\n./temporary\n",
           {".dockerignore": "# comment\n.dockerignore\n/tmp\n*.md\n!README.md\ntem?\n",
            "tmp/a": "", "a.md": "", "README.md": "", "temp": "", "temporary": "", "sub/x.md": ""}),
    Sample("copy-directory-content", """FROM BASE
COPY dir /t1
COPY dir/ /t2/
COPY dir/f /t3/
COPY dir/f /t4
CMD cd / && find t1 t2 t3 t4 -type f | sort
""", "t1/f\nt1/s/g\nt2/f\nt2/s/g\nt3/f\nt4\n", {"dir/f": "", "dir/s/g": ""}),
    Sample("copy-over", """FROM BASE
RUN mkdir -p /t/s && echo old > /t/f && echo keep > /t/s/k
COPY dir /t
CMD cat /t/f /t/s/k /t/s/g
""", "new\nkeep\ng\n", {"dir/f": "new\n", "dir/s/g": "g\n"}),
    Sample("workdirs", """FROM BASE
WORKDIR /a
WORKDIR b
WORKDIR ../c
ENV D=/d/$HOME
WORKDIR /e/${F:-f}
RUN pwd > /pwd
CMD cat /pwd && ls -d /a/b /a/c
""", "/e/f\n/a/b\n/a/c\n"),
    Sample("entrypoint-reset", """FROM BASE AS a
CMD ["inherited"]
FROM a
ENTRYPOINT ["echo", "entry"]
""", "entry\n"),
    Sample("expose-stop-maintainer", """FROM BASE
MAINTAINER Some One <some@example.com>
EXPOSE 80 443/tcp 53/udp 8000-8002
STOPSIGNAL 9
CMD ["true"]
""", ""),
    Sample("escape-directive", "# escape=`\nFROM BASE\nRUN echo a `\n  b > /ab\nCMD cat /ab\n",
           "a b\n"),
    Sample("syntax-directive", """# syntax=docker/dockerfile:1
FROM BASE
RUN echo s > /s
CMD cat /s
""", "s\n"),
    Sample("comments-and-case", """# a comment
from BASE as Base
  # indented comment
run echo x > /x
cmd cat /x
""", "x\n"),
    Sample("cache-mount", """FROM BASE
RUN --mount=type=cache,target=/cache echo warm > /cache/x && cp /cache/x /x
CMD cat /x; test -e /cache || echo no stub
""", "warm\nno stub\n"),
    Sample("bind-mount", """FROM BASE AS src
RUN echo from-src > /data
FROM BASE
RUN --mount=type=bind,from=src,source=/data,target=/mnt/data cp /mnt/data /copied
RUN --mount=type=bind,target=/ctx cat /ctx/c.txt >> /copied
RUN --mount=type=tmpfs,target=/t touch /t/x
CMD cat /copied; test -e /t || echo no stub
""", "from-src\nctx\nno stub\n", {"c.txt": "ctx\n"}),
    Sample("copy-link", """FROM BASE AS a
RUN mkdir /o && echo linked > /o/f
FROM BASE
COPY --link --from=a /o /l/
COPY --link --chown=5:6 --chmod=640 c.txt /m/
CMD cat /l/f; stat -c '%u:%g %a' /m/c.txt
""", "linked\n5:6 640\n", {"c.txt": "ctx\n"}),
    Sample("copy-parents-exclude", """# syntax=docker/dockerfile:1-labs
FROM BASE
COPY --parents src/a/x src/b /p/
COPY --exclude=*.tmp src/b /q/
CMD cd / && find p q -type f | sort
""", "p/src/a/x\np/src/b/y\np/src/b/z.tmp\nq/y\n",
           {"src/a/x": "", "src/b/y": "", "src/b/z.tmp": ""}),
    Sample("from-image-copy", "FROM BASE\nCOPY --from=BASE /bin/busybox /other/\n"
           "CMD [\"/other/busybox\", \"echo\", \"copied\"]\n", "copied\n"),
    Sample("scratch-only-config", "FROM scratch\nCOPY f /f\nLABEL a=b\nCMD [\"/f\"]\n", "",
           {"f": "data"}, runs=False),
    Sample("debian-tool-chain", r"""FROM DEBIAN AS build
WORKDIR /src
COPY hello.c .
RUN echo '#!/bin/sh' > hello && sed -n 's/.*puts("\(.*\)").*/echo \1/p' hello.c >> hello \
 && chmod +x hello
FROM DEBIAN
COPY --from=build /src/hello /usr/local/bin/
USER nobody
CMD ["hello"]
""", "hi there\n", {"hello.c": "int main(){ puts(\"hi there\"); }\n"}, debian=True),
    Sample("debian-users", """FROM DEBIAN
RUN groupadd -r app && useradd -r -g app -d /app -m -s /usr/sbin/nologin app
COPY --chown=app:app f /app/
USER app
WORKDIR /app
CMD ["stat", "-c", "%U:%G", "f"]
""", "app:app\n", {"f": ""}, debian=True),
    Sample("args-in-history", """ARG Z=zz
FROM BASE
ARG B=1
ARG A=2 C Q
ARG B=3
ARG Z
ENV C=env
RUN echo $A$B$C$Q$Z > /x
ENV A=over
RUN echo $A$B$C$Q$Z > /y
CMD cat /x /y
""", "23envzz\nover3envzz\n", flags=("--build-arg", "C=given")),
    Sample("debian-python", r"""FROM DEBIAN AS build
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY requirements.txt ./
RUN mkdir -p /venv/bin /venv/lib \
 && while read -r name; do echo "$name" > "/venv/lib/$name.py"; done < requirements.txt \
 && ln -s ../../bin/sh /venv/bin/python
COPY . .
FROM DEBIAN
COPY --from=build /venv /venv
COPY --from=build --chown=daemon:daemon /app /app
ENV PATH=/venv/bin:$PATH
WORKDIR /app
USER daemon
HEALTHCHECK --interval=30s --timeout=3s CMD ["python", "-c", "exit 0"]
CMD ["python", "main"]
""", "flask.py requests.py daemon\n",
           {"requirements.txt": "flask\nrequests\n",
            "main": "echo $(ls /venv/lib) $(stat -c %U main)\n"}, debian=True),
    Sample("debian-node", r"""FROM DEBIAN AS deps
WORKDIR /usr/src/app
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm mkdir -p node_modules/.bin node_modules/left \
 && echo 'echo left' > node_modules/left/cli && chmod +x node_modules/left/cli \
 && ln -s ../left/cli node_modules/.bin/left
FROM DEBIAN
ENV NODE_ENV=production
WORKDIR /usr/src/app
RUN groupadd -g 1500 node && useradd -u 1500 -g node -m node
COPY --from=deps --chown=node:node /usr/src/app/node_modules ./node_modules
COPY --chown=node:node . .
USER node
EXPOSE 3000/tcp 3001/udp
CMD ["sh", "node_modules/.bin/left"]
""", "left\n", {"package.json": "{}", "package-lock.json": "{}", "index.js": "1\n"}, debian=True),
    Sample("debian-web-server", r"""FROM DEBIAN
LABEL maintainer="Web <web@example.com>"
ENV WEB_VERSION=1.27.0 PKG_RELEASE=1~debian
RUN set -x \
    && groupadd --system --gid 101 web \
    && useradd --system --gid web --no-create-home --home /nonexistent \
       --comment "web user" --shell /bin/false --uid 101 web \
    && mkdir -p /var/log/web /docker-entrypoint.d && ln -sf /dev/stdout /var/log/web/access.log \
    && ln -sf /dev/stderr /var/log/web/error.log && chown web:adm /var/log/web
COPY docker-entrypoint.sh /
COPY 10-listen.sh /docker-entrypoint.d/
RUN chmod +x /docker-entrypoint.sh /docker-entrypoint.d/*.sh
ENTRYPOINT ["/docker-entrypoint.sh"]
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["web", "-g", "daemon off;"]
""", "listen\nweb -g daemon off;\n",
           {"docker-entrypoint.sh": "#!/bin/sh\nfor f in /docker-entrypoint.d/*.sh; do $f; done\n"
                                    "echo \"$@\"\n",
            "10-listen.sh": "#!/bin/sh\necho listen\n"}, debian=True),
    Sample("debian-cron", r"""FROM DEBIAN
COPY crontab /etc/cron.d/job
RUN chmod 0644 /etc/cron.d/job && touch /var/log/cron.log \
 && install -d -m 1730 -g tty /var/spool/cron/tabs
VOLUME /var/log
CMD ["sh", "-c", "cat /etc/cron.d/job; stat -c '%a %G' /var/spool/cron/tabs"]
""", "* * * * * root true\n1730 tty\n", {"crontab": "* * * * * root true\n"}, debian=True),
    Sample("debian-static-site", r"""FROM DEBIAN AS site
WORKDIR /site
COPY pages pages/
RUN for f in pages/*.md; do \
      sed 's/^# \(.*\)/<h1>\1<\/h1>/' "$f" > "$(basename "$f" .md).html"; \
    done \
 && find . -name '*.html' -exec chmod 444 {} +
FROM BASE
COPY --link --from=site /site/*.html /www/
CMD ["cat", "/www/a.html", "/www/b.html"]
""", "<h1>A</h1>\n<h1>B</h1>\n", {"pages/a.md": "# A\n", "pages/b.md": "# B\n"}, debian=True),
    Sample("debian-time-zone", r"""FROM DEBIAN
ARG TZ=Europe/Vienna
ENV TZ=$TZ LC_ALL=C.UTF-8
RUN ln -snf /usr/share/zoneinfo/$TZ /etc/localtime && echo $TZ > /etc/timezone
CMD ["sh", "-c", "cat /etc/timezone; readlink /etc/localtime"]
""", "Asia/Tokyo\n/usr/share/zoneinfo/Asia/Tokyo\n",
           flags=("--build-arg", "TZ=Asia/Tokyo"), debian=True),
    Sample("debian-hard-links", r"""FROM DEBIAN
RUN mkdir /l && echo one > /l/a && ln /l/a /l/b && chown 7:8 /l/a && chmod 4751 /l/b
RUN echo two >> /l/b
RUN rm /l/a && mv /l/b /l/c && mkdir -m 2775 /l/s && cp -a /etc/skel /l/s/
CMD ["sh", "-c", "cat /l/c; stat -c '%a %u:%g %h' /l/c"]
""", "one\ntwo\n4751 7:8 1\n", debian=True),
    Sample("debian-dpkg", r"""FROM DEBIAN
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN dpkg-query -W -f '${Package}\n' | grep -x dpkg > /have
RUN rm -rf /var/lib/apt/lists/* /usr/share/doc/*
CMD cat /have
""", "dpkg\n", debian=True),
]  # fmt: skip
