import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Properties;
import java.util.Scanner;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A producer as docs/clients.md sets it up: keys and values as base64 from standard input, one record a line; what Java's own
 * partitioner chose goes to standard output, one partition a line.
 *
 * java -cp 'JARS/*' Produce.java TOPIC name=value ...
 */
class Produce {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        for (int n = 1; n < arguments.length; n++) {
            String[] setting = arguments[n].split("=", 2);
            settings.put(setting[0], setting[1]);
        }
        Base64.Decoder base64 = Base64.getDecoder();
        var sent = new ArrayList<Future<RecordMetadata>>();
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
                Scanner lines = new Scanner(System.in, StandardCharsets.US_ASCII)) {
            while (lines.hasNextLine()) {
                String[] record = lines.nextLine().split(" ", 2);
                sent.add(producer.send(new ProducerRecord<>(arguments[0], base64.decode(record[0]), base64.decode(record[1]))));
            }
        }
        for (var landed : sent) {
            System.out.println(landed.get().partition());
        }
    }
}
