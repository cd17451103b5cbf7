// Connects as an unconfigured client of golang.org/x/crypto/ssh does: a command, its exit status, several at once, a file
// both ways, one denied, a tunnel. Arguments: port, folder for files that may be touched, a file that may not be read.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// What a command prints on both streams, and its exit status.
func run(client *ssh.Client, command string, input string) (string, string, int) {
	session, err := client.NewSession()
	must(err)
	defer session.Close()
	var out, errors bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader(input), &out, &errors
	switch err := session.Run(command).(type) {
	case nil:
		return out.String(), errors.String(), 0
	case *ssh.ExitError:
		return out.String(), errors.String(), err.ExitStatus()
	default:
		log.Fatal(err)
		return "", "", 0
	}
}

func main() {
	port, folder, closed := os.Args[1], os.Args[2], os.Args[3]
	config := &ssh.ClientConfig{
		User:            "go",
		Auth:            []ssh.AuthMethod{ssh.Password("whatever")},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	}
	client, err := ssh.Dial("tcp", "127.0.0.1:"+port, config)
	must(err)
	defer client.Close()

	out, _, code := run(client, "cat; false", "from go")
	fmt.Printf("cat: %d %s\n", code, out)
	_, errors, code := run(client, "rm x", "")
	fmt.Printf("rm: %d %t\n", code, strings.Contains(errors, "chaperone: denied"))

	// sshd takes ten sessions on a connection.
	var all sync.WaitGroup
	long := strings.Repeat("y", 200000)
	for range [8]int{} {
		all.Add(1)
		go func() {
			defer all.Done()
			if out, _, code := run(client, "cat", long); code != 0 || out != long {
				log.Fatal("another answer")
			}
		}()
	}
	all.Wait()

	files, err := sftp.NewClient(client)
	must(err)
	content := bytes.Repeat([]byte("go "), 100000)
	file, err := files.Create(folder + "/go")
	must(err)
	_, err = file.Write(content)
	must(err)
	must(file.Close())
	file, err = files.Open(folder + "/go")
	must(err)
	back, err := io.ReadAll(file)
	must(err)
	fmt.Printf("file: %t\n", bytes.Equal(back, content))
	_, err = files.Open(closed)
	fmt.Printf("closed: %v\n", err)
	must(files.Remove(folder + "/go"))

	// To another target, whose words come through.
	inner, err := client.Dial("tcp", "127.0.0.6:"+port)
	must(err)
	words := make([]byte, 8)
	_, err = io.ReadFull(inner, words)
	must(err)
	fmt.Printf("tunnel: %s\n", words)
	_, err = client.Dial("tcp", "127.0.0.9:"+port)
	fmt.Printf("elsewhere: %t\n", err != nil && strings.Contains(err.Error(), "chaperone: no tunnel"))
}
