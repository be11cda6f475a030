# What an engine does in its tree, in small deeds: each leaves a repository in which the next can go on. @N@ stands for what is
# unique to the term and the deed. `needs`: what the source or the machine must have. `tells`: words of which the result must
# have some, where not all of the deed can be saved. `last`: nothing can follow it.

#: commit
readme
put src/@N@.txt 'a commit @N@'
printf 'more\n' >> README.md
git add README.md
git commit -q --no-verify -am 'edit @N@'

#: leave
make new/@N@.txt
printf 'changed @N@\n' >> README.md
mkdir -p empty-@N@

#: odd-names
make 'with space @N@'
make ./-dash-@N@
make 'żółw @N@'
name=$(printf 'latin-\351-@N@')
printf x > "$name"
printf y > "$(printf 'line\n@N@')"

#: links
ln -s README.md link-@N@
ln -s /etc/hostname out-@N@
ln -s nowhere broken-@N@

#: modes
readme
make tool-@N@
chmod +x tool-@N@
chmod +x README.md

#: branch
clean
git checkout -q -b side-@N@
put side/@N@.txt 'beside @N@'
git checkout -q -

#: branches
clean
for b in a b c; do git branch topic-@N@-$b; done
git checkout -q topic-@N@-b
put topic/@N@ 't @N@'
git checkout -q -

#: detach
clean
git checkout -q --detach
put detached/@N@.txt 'on no branch @N@'

#: stash
readme
printf 'stash @N@\n' >> README.md
make untracked-@N@
git stash push -q -u -m 'kept @N@'

#: stash-two
for s in 1 2; do make s-@N@-$s; git stash push -q -u -m "s $s"; done

#: tags
git tag light-@N@
git -c user.name=T -c user.email=t@t.invalid tag -a -m 'told @N@' told-@N@

#: tagged-away
clean
git checkout -q --detach
put tagged/@N@ 'tagged @N@'
git tag kept-@N@
git checkout -q -B back-@N@ HEAD~1

#: amend
put amended/@N@ 'first @N@'
make amended/@N@-b
git add -A
git commit -q --no-verify --amend -m 'amended @N@'

#: reset
clean
put dropped/@N@ 'dropped @N@'
git reset -q --hard HEAD~1

#: merge
clean
git checkout -q -b join-@N@
put join/@N@ 'joined @N@'
git checkout -q -
put other/@N@ 'other @N@'
git merge -q --no-ff -m 'merge @N@' join-@N@

#: merge-half-way; last
readme
clean
git checkout -q -b half-@N@
printf 'half\n' > README.md
git commit -q --no-verify -am h
git checkout -q -
printf 'whole\n' > README.md
git commit -q --no-verify -am w
git merge -q half-@N@ > /dev/null 2>&1 || true

#: rebase
clean
git checkout -q -b rebased-@N@
put r/@N@ 'rebased @N@'
git checkout -q -
put base/@N@ 'base @N@'
git checkout -q rebased-@N@
git rebase -q - > /dev/null 2>&1

#: cherry-pick
clean
git checkout -q -b picked-@N@
put p/@N@ 'picked @N@'
git checkout -q -
git cherry-pick picked-@N@ > /dev/null

#: revert
clean
put gone/@N@ 'reverted @N@'
git revert --no-edit HEAD > /dev/null

#: staged
make staged/@N@
git add -A
printf 'and more\n' >> staged/@N@

#: remove
clean
git rm -q -r --ignore-unmatch docs > /dev/null

#: rename
make README.md
clean
git mv README.md READ-@N@.md
git commit -q --no-verify -m 'renamed @N@'
git mv READ-@N@.md README.md

#: worktree
git worktree add -q -b wt-@N@ ../wt-@N@
make ../wt-@N@/in-it-@N@
(cd ../wt-@N@ && put c-@N@ 'in a worktree @N@' && make left-@N@)

#: worktree-inside
git worktree add -q --detach inner-wt-@N@
(cd inner-wt-@N@ && put i-@N@ 'inside @N@')

#: inner
git init -q tool-repo-@N@
(cd tool-repo-@N@ && put a 'inner @N@' && make not-committed)

#: inner-empty
git init -q bare-of-commits-@N@
make bare-of-commits-@N@/file

#: submodule; needs=submodule
(cd lib && git checkout -q -B work-@N@ && put lib-@N@ 'in the submodule @N@')
git add lib
git commit -q --no-verify -m 'lib @N@'

#: submodule-left; needs=submodule
(cd lib && make dirty-@N@ && git checkout -q -b apart-@N@ && put apart-@N@ 'apart @N@' && git checkout -q -)

#: submodule-out; needs=submodule
(cd lib && put last-@N@ 'before it goes @N@')
git submodule deinit -q -f lib

#: gc
put packed/@N@ 'packed @N@'
git gc -q --prune=now

#: repack
git repack -q -a -d
git pack-refs --all
git reflog expire --expire=now --all

#: hidden; last
put README.md 'readable @N@'
git update-index --skip-worktree README.md
printf 'SECRET of @N@\n' >> README.md

#: ignored
printf '*.log\n' >> .gitignore
printf 'SECRET log of @N@\n' > junk-@N@.log
make wanted-@N@.log
git add -f wanted-@N@.log

#: excluded
printf 'private-*\n' >> .git/info/exclude
printf 'SECRET private @N@\n' > private-@N@

#: identity
git config user.email job-@N@@example.invalid
git config user.name 'Job @N@'
put by/@N@ 'by @N@'

#: hook
printf '#!/bin/sh\necho hook @N@ >&2\nexit 1\n' > .git/hooks/pre-commit
cp .git/hooks/pre-commit .git/hooks/pre-push
chmod +x .git/hooks/*

#: evil-config; last
printf "#!/bin/sh\ntouch '%s-@N@'\n" "$EVIL" > .git/evil
chmod +x .git/evil
for key in core.fsmonitor core.sshCommand core.pager core.editor diff.external gpg.program core.askPass; do
  git config $key "$PWD/.git/evil"
done
git config core.hooksPath "$PWD/.git"
for hook in reference-transaction post-checkout pre-push post-index-change; do cp .git/evil .git/$hook; done

#: evil-filter; tells=filter; last
printf "#!/bin/sh\ntouch '%s-@N@'\ncat\n" "$EVIL" > .git/clean
chmod +x .git/clean
git config filter.evil.clean "$PWD/.git/clean"
git config filter.evil.smudge cat
printf '*.evil filter=evil\n' >> .gitattributes
make @N@.evil

#: push; needs=push
git push -q origin HEAD:refs/heads/feature/@N@
put pushed/@N@ 'after the push @N@'
git push -q --force origin HEAD:refs/heads/feature/@N@

#: push-tag; needs=push
git tag release-@N@
git push -q origin release-@N@

#: fetch
git fetch -q origin
git fetch -q --tags origin
git describe --always > /dev/null

#: sparse; last
clean
mkdir -p keep
make keep/@N@
git add -A
git commit -q --no-verify -m 'sparse @N@'
git sparse-checkout set --cone keep

#: pipe
mkfifo pipe-@N@
make beside-a-pipe-@N@

#: background
(trap '' TERM; exec setsid sh -c 'while :; do sleep 0.2; done') > /dev/null 2>&1 &
make with-a-child-@N@

#: index-lock; last
make locked-@N@
touch .git/index.lock

#: index-broken; last
make broken-index-@N@
printf 'no index' > .git/index

#: read-only
make ro-@N@/deep/file
chmod -R a-w ro-@N@

#: huge
head -c 3000000 /dev/urandom > huge-@N@.bin

#: many
mkdir -p many-@N@
for i in $(seq 120); do echo $i > many-@N@/$i; done
rm many-@N@/7

#: lfs; needs=lfs
git lfs install --local > /dev/null
git lfs track '*.bin' > /dev/null
head -c 5000 /dev/urandom > lfs-@N@.bin
git add -A
git commit -q --no-verify -m 'large @N@'

#: remove-origin; last
git remote remove origin || true
make without-origin-@N@

#: re-init; tells=new repository; tells=removed its repository; last
make re-@N@
rm -rf .git
git init -q .

#: no-git; tells=removed its repository; last
make nogit-@N@
rm -rf .git

#: branch-named-fleet
git branch fleet-@N@
git branch --list > /dev/null

#: orphan
clean
git checkout -q --orphan orphan-@N@
git commit -q --no-verify --allow-empty -m 'orphan @N@'
make on-orphan-@N@

#: bisect
clean
put b1/@N@ b1
put b2/@N@ b2
git bisect start -q HEAD HEAD~2 > /dev/null 2>&1
git bisect reset > /dev/null 2>&1

#: notes
git notes add -f -m 'a note @N@' HEAD

#: replace-ref
put rep/@N@ rep
git replace HEAD HEAD~1
git replace -d $(git replace -l) > /dev/null

#: nothing
git status > /dev/null
git log --oneline > /dev/null

#: broken-git-file
mkdir -p torn-@N@
printf 'gitdir: /nowhere/at/all\n' > torn-@N@/.git
make torn-@N@/file
