"""Programs that attack the machine they run on, each with a way to tell whether it succeeded.

An attack reads a JSON object from standard input: what `sandbox_driver.Host` set up for it to
attack. It prints SUCCEEDED if it did what it is after, where it can tell that by itself. Each is
bounded, so that it does no harm where nothing holds it.
"""
import dataclasses
import textwrap

_PRELUDE = '''
import ctypes, json, os, signal, sys, time
host = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == 'aarch64'
def succeeded():
  print('SUCCEEDED', flush=True)
def system_call(x86_64, aarch64, *arguments):
  return libc.syscall(ctypes.c_long(aarch64 if arm else x86_64), *arguments)
'''


@dataclasses.dataclass(frozen=True)
class Attack:
  """A program that attacks.

  Attributes:
    name: what it is after.
    source: the program.
    needs_root: whether only root can do it, sandbox or not.
  """

  name: str
  source: str
  needs_root: bool = False

  @property
  def program(self) -> str:
    return _PRELUDE + textwrap.dedent(self.source)


ATTACKS = {attack.name: attack for attack in (
    Attack('read a secret file', '''
        if open(host['secret_file']).read() == host['secret']: succeeded()'''),
    Attack('read the accounts of the machine', '''
        if 'root:' in open('/etc/passwd').read(): succeeded()'''),
    Attack('write outside its folder', '''
        open(host['folder'] + '/written', 'w').close()
        succeeded()'''),
    Attack('connect by TCP', '''
        import _socket
        connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        connection.connect(('127.0.0.1', host['tcp']))
        succeeded()'''),
    Attack('send by UDP', '''
        import _socket
        _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', host['udp']))
        succeeded()'''),
    Attack('connect to an abstract socket', '''
        import _socket
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.connect('\\0' + host['abstract'])
        succeeded()'''),
    Attack('bomb with forks', '''
        for _ in range(8):
          if not os.fork(): time.sleep(0.3), os._exit(0)
        succeeded()'''),
    Attack('take all memory', '''
        block = bytearray(300 << 20)
        succeeded()'''),
    Attack('take all memory by many processes', '''
        for _ in range(4):
          if not os.fork():
            block = bytearray(60 << 20)
            time.sleep(0.3)
            os._exit(0)
        block = bytearray(60 << 20)
        succeeded()'''),
    Attack('take all memory by threads', '''
        import threading
        blocks = []
        threads = [threading.Thread(target=lambda: blocks.append(bytearray(30 << 20)))
                   for _ in range(10)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        if len(blocks) == 10: succeeded()'''),
    Attack('bomb with threads', '''
        import threading
        threading.stack_size(1 << 15)
        stop = threading.Event()
        for _ in range(1500): threading.Thread(target=stop.wait, daemon=True).start()
        succeeded()
        os._exit(0)'''),
    Attack('flood its output', '''
        for _ in range(8): os.write(1, b'x' * (1 << 20))
        succeeded()'''),
    Attack('fill the disk', '''
        with open(host['folder'] + '/large', 'wb') as file: file.write(bytes(8 << 20))
        succeeded()'''),
    Attack('fill files in memory', '''
        file = system_call(319, 279, b'x', 0)
        if file >= 0 and os.write(file, bytes(1 << 20)) == 1 << 20: succeeded()'''),
    Attack('outlive a request to end', '''
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('SURVIVES', flush=True)
        while True: time.sleep(1)'''),
    Attack('leave a process behind', '''
        if not os.fork():
          os.setsid()
          time.sleep(0.5)
          open(host['folder'] + '/later', 'w').close()
          os._exit(0)
        succeeded()'''),
    Attack('kill its parent', '''
        os.kill(os.getppid(), signal.SIGKILL)
        succeeded()'''),
    Attack('kill a stranger', '''
        os.kill(host['victim'], 0)
        succeeded()'''),
    Attack('signal its process group', '''
        os.killpg(os.getpgrp(), 0)
        succeeded()'''),
    Attack('read the memory of another process', '''
        for pid in host['victim'], os.getppid():
          for line in open(f'/proc/{pid}/maps'):
            if ' rw-p ' in line and '[v' not in line:
              start, end = (int(word, 16) for word in line.split()[0].split('-'))
              file = os.open(f'/proc/{pid}/mem', os.O_RDONLY)
              if host['hidden'].encode() in os.pread(file, end - start, start):
                succeeded()
                break'''),
    Attack('read memory by process_vm_readv', '''
        class Part(ctypes.Structure):
          _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
        buffer = ctypes.create_string_buffer(8)
        here, there = Part(ctypes.addressof(buffer), 8), Part(host['address'], 8)
        if system_call(310, 270, host['victim'], ctypes.byref(here), ctypes.c_long(1),
                       ctypes.byref(there), ctypes.c_long(1), ctypes.c_long(0)) == 8:
          succeeded()'''),
    Attack('read command lines and environments', '''
        for pid in filter(str.isdigit, os.listdir('/proc')):
          try:
            text = open(f'/proc/{pid}/environ').read() + open(f'/proc/{pid}/cmdline').read()
          except OSError:
            continue
          if host['hidden'] in text: succeeded()'''),
    Attack('use an inherited descriptor', '''
        for descriptor in range(3, 1024):
          try:
            if host['secret'].encode() in os.pread(descriptor, 1000, 0): succeeded()
          except OSError:
            pass'''),
    Attack('follow a link out of its folder', '''
        os.symlink('/etc/passwd', host['folder'] + '/link')
        if 'root:' in open(host['folder'] + '/link').read(): succeeded()'''),
    Attack('poison what the next run imports', '''
        for name in 'json.py', 'sitecustomize.py':
          open(host['folder'] + '/' + name, 'w').write('raise SystemExit')
        succeeded()'''),
    Attack('poison the standard library', '''
        with open(os.path.dirname(os.__file__) + '/poison.pth', 'a') as file: succeeded()
        os.remove(file.name)''', needs_root=True),
    Attack('make a device', '''
        os.mknod(host['folder'] + '/device', 0o20666, os.makedev(1, 5))
        succeeded()''', needs_root=True),
    Attack('open a device', '''
        os.open('/dev/zero', os.O_RDWR)
        succeeded()'''),
    Attack('mount in a user namespace', '''
        if libc.unshare(0x10020000) == 0 and libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0:
          succeeded()'''),
    Attack('write to the kernel', '''
        path = '/proc/sys/vm/swappiness'
        value = open(path).read()
        open(path, 'w').write(value)
        succeeded()''', needs_root=True),
    Attack('trace another process', '''
        attach, detach = 16, 17
        if libc.ptrace(attach, host['victim'], None, None) == 0:
          os.waitpid(host['victim'], 0x40000000)
          libc.ptrace(detach, host['victim'], None, None)
          succeeded()'''),
    Attack('set up io_uring', '''
        parameters = ctypes.create_string_buffer(120)
        if system_call(425, 425, ctypes.c_long(4), parameters) >= 0: succeeded()'''),
    Attack('use the calls of another architecture', '''
        if libc.syscall(ctypes.c_long(0x40000000 | 39)) == os.getpid(): succeeded()'''),
    Attack('run machine code of its own', '''
        libc.mmap.restype = ctypes.c_void_p
        code = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
        if code != ctypes.c_void_p(-1).value:
          returns = b'\\xc0\\x03\\x5f\\xd6' if arm else b'\\xc3'
          ctypes.memmove(code, returns, len(returns))
          ctypes.CFUNCTYPE(None)(code)()
          succeeded()'''),
    Attack('execute another program', '''
        os.execv(sys.executable, [sys.executable, '-c', 'print("SUCCEEDED")'])'''),
    Attack('become root again', '''
        os.setresuid(0, 0, 0)
        succeeded()''', needs_root=True),
    Attack('raise its limits', '''
        import resource
        resource.setrlimit(resource.RLIMIT_NPROC, (5000, 5000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        succeeded()'''),
    Attack('change the limits of another process', '''
        import resource
        resource.prlimit(host['victim'], resource.RLIMIT_CORE,
                         resource.prlimit(host['victim'], resource.RLIMIT_CORE))
        succeeded()'''),
    Attack('stop dying with its parent', '''
        if libc.prctl(1, 0, 0, 0, 0) == 0: succeeded()'''),
    Attack('escape from chroot', '''
        os.mkdir('x')
        descriptor = os.open('.', os.O_RDONLY)
        os.chroot('x')
        os.fchdir(descriptor)
        for _ in range(32): os.chdir('..')
        os.chroot('.')
        if os.path.exists('/etc/passwd'): succeeded()''', needs_root=True),
    Attack('send signals by a descriptor', '''
        import fcntl
        fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())
        succeeded()'''),
    Attack('take a descriptor of its parent', '''
        parent = system_call(434, 434, host['victim'], 0)
        if parent >= 0 and system_call(438, 438, parent, 0, 0) >= 0: succeeded()'''),
)}
